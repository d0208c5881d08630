"""The tables of what the old servers did: each row of a guide is shown by the test that is named here."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"

SHOWN = {
    "guide-torchserve.md": {
        '`/ping` answers `{"status": "Healthy"}`': "e2e/test_torchserve_habits.py::test_ping_says_no_more_than_torchserve_where_it_is_asked_to",
        "`describe` lists a worker at once": "e2e/test_torchserve_habits.py::test_a_worker_is_listed_the_moment_a_registration_is_accepted",
        "an archive from a URL is kept in the model store": "e2e/test_torchserve_habits.py::test_an_archive_from_a_url_is_kept_in_the_store",
        "a stopping criterion of None ends a request": "e2e/test_continuous_batching.py::test_a_criterion_that_says_none_makes_the_result_the_whole_answer",
        "v2 requests to a handler, with or without the kservev2 envelope": "e2e/test_v2_handlers_served.py::test_an_input_of_any_name_is_what_the_handler_reads",
        "`/v2/models/{model}/explain`": "e2e/test_v2_handlers_served.py::test_an_explanation_has_a_number_for_every_pixel",
        '`{"b64": ...}` in the json envelope': "e2e/test_envelopes_served.py::test_the_servers_envelope_counts_and_not_the_manifests",
        "503 blames missing workers when the queue is full": "e2e/test_batches_and_limits.py::test_a_full_queue_refuses_and_says_when_to_come_again",
        "numbers of management calls that are none become defaults": "protocols/test_torchserve_changes.py::test_a_registration_with_a_number_that_makes_no_sense_is_refused",
        "a handler's `logger.info(...)` is in the log": "e2e/test_torchserve_logs.py::test_what_a_handler_logs_is_in_model_log_and_ts_log_with_its_level",
        "`print` of a handler is in the log": "e2e/test_torchserve_logs.py::test_what_a_handler_logs_is_in_model_log_and_ts_log_with_its_level",
        '`metrics.add_size(..., unit="kB")`': "backends/handler/test_handler_context.py::test_a_size_takes_torchserves_units_and_ours",
        "`key_file.json` in the working directory, deleted at the end": "e2e/test_tokens_served.py::test_torchserves_start_writes_the_key_file_and_its_end_deletes_it",
        "tokens are checked from everywhere": "e2e/test_tokens_served.py::test_a_drop_in_start_on_loopback_needs_no_token_and_takes_those_of_the_key_file",
        "a wrong token is answered 400": "e2e/test_tokens_served.py::test_a_wrong_token_gets_torchserves_answer_in_a_drop_in_start",
        "a missing archive in the list of models": "e2e/test_torchserve_command.py::test_what_is_missing_or_broken_is_left_out_and_the_rest_is_served_with_its_workflows",
        "`Custom pip package installation failed`": "repository/test_requirements.py::test_a_failure_is_named_with_what_pip_said_and_leaves_nothing",
        "links in the model store": "e2e/test_management_served.py::test_an_archive_that_is_a_link_in_the_store_is_registered_as_any_other",
        "`import ts` in tests and notebooks": "compat/test_ts.py::test_an_installed_mooring_has_ts_for_tests_and_notebooks",
        "plugins (`--plugins-path`)": "test_docs.py::test_each_key_of_torchserves_without_effect_is_documented",
    },
    "guide-amd.md": {
        "datatypes as in `data_types.hpp`: `STRING`, `String`, `Fp32`, `Uint8`": "e2e/test_amd_served.py::test_datatypes_may_be_spelled_as_amds_are",
        "an `id` that is a number": "e2e/test_amd_served.py::test_an_id_may_be_a_number",
        "inputs without names, or with equal names": "e2e/test_amd_served.py::test_inputs_are_taken_by_position_whatever_their_names",
        "one text whose shape counts its bytes": "e2e/test_amd_served.py::test_an_image_of_base64_goes_both_ways_in_amds_form_of_text",
        "values out of range wrap, fractions are cut": "codecs/test_v2_json.py::test_what_is_wrong_is_said",
        "names in lower case at load and unload": "protocols/test_amd.py::test_names_that_nobody_has_but_in_lower_case_are_lowered",
        "load parameters `batch_size`, `timeout`": "e2e/test_amd_served.py::test_a_load_parameter_of_a_wrong_type_is_refused",
        "a chain answers with the name of the first stage's code": "e2e/test_amd_served.py::test_datatypes_may_be_spelled_as_amds_are",
        "a chain whose first stage has its name": "e2e/test_amd_served.py::test_a_chain_of_its_first_stages_name_leaves_nothing_behind",
        "the other stages of a chain": "e2e/test_amd_served.py::test_a_chain_of_its_first_stages_name_leaves_nothing_behind",
        "`platform` in metadata": "e2e/test_amd_served.py::test_the_platform_is_what_the_model_runs_on",
        "ModelReady of an unknown model over gRPC": "e2e/test_amd_served.py::test_readiness_of_an_unknown_model_is_not_found_over_grpc",
        "readiness is always true": "e2e/test_amd_served.py::test_the_server_says_what_it_is",
        "outputs in the list of inputs of the metadata": "e2e/test_amd_served.py::test_models_of_the_repository_are_there_and_come_and_go",
        "malformed bodies end the server": "e2e/test_amd_served.py::test_what_ended_amds_server_is_a_bad_request_here",
        "backends by platform": "repository/test_declaration_reader.py::test_a_fault_in_a_config_is_named_with_its_file_and_its_key",
    },
}  # fmt: skip


def rows_of(guide):
    """The first cells of the table under "Habits"."""
    text = (DOCS / guide).read_text().split("\n## Habits\n")[1].split("\n## ")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1].strip() for line in text.splitlines() if line.startswith("|")]
    return cells[2:]


@pytest.mark.parametrize("guide", SHOWN)
def test_each_habit_is_shown_by_a_test(guide):
    assert sorted(rows_of(guide)) == sorted(SHOWN[guide])
    for row, test in SHOWN[guide].items():
        file, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE), (row, test)
