"""The tables of what the old servers did: each row of a guide is shown by the test that is named here."""

import re
from pathlib import Path

import pytest

from mooring.cli.torchserve import torchserve

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
        "`curl -d '{...}'` without a content type reaches a handler as a form with an odd field": "e2e/test_error_texts.py::test_a_request_is_answered_as_the_guide_says",
        "a wrong number in a management call becomes the default": "protocols/test_torchserve_changes.py::test_a_registration_with_a_number_that_makes_no_sense_is_refused",
        "a handler's `logger.info(...)` is in the log": "e2e/test_torchserve_logs.py::test_what_a_handler_logs_is_in_model_log_and_ts_log_with_its_level",
        "`print` of a handler is in the log": "e2e/test_torchserve_logs.py::test_what_a_handler_logs_is_in_model_log_and_ts_log_with_its_level",
        "the traceback of a handler that fails is in `model_log.log`": "e2e/test_torchserve_logs.py::test_the_traceback_of_a_failed_prediction_is_in_model_log",
        '`metrics.add_size(..., unit="kB")`': "backends/handler/test_handler_context.py::test_a_size_takes_torchserves_units_and_ours",
        "one line per request in `access_log.log`": "e2e/test_access_log.py::test_every_prediction_has_a_line_and_not_one_a_second",
        "metric lines of each request in `ts_metrics.log` and `model_metrics.log`": "e2e/test_access_log.py::test_a_request_leaves_its_lines_in_each_file_and_fills_the_page",
        "`metrics_mode=log`, `prometheus` or `legacy`": "e2e/test_access_log.py::test_a_metrics_mode_of_a_file_means_what_it_means_there",
        "`torchrun` and `parallelType`": "e2e/test_parallel_groups_served.py::test_every_rank_takes_part_in_an_answer_in_a_session_of_their_own",
        "the background start goes on to write to its standard output": "e2e/test_torchserve_logs.py::test_the_output_of_the_start_goes_on_with_the_log",
        "`--start` may be left out": "cli/test_torchserve.py::test_start_and_stop_exclude_each_other_and_start_may_be_left_out",
        "`--log-config` with a file of log4j": "cli/test_torchserve.py::test_a_log_configuration_is_obeyed_from_the_flag_from_vmargs_and_from_javas_variables",
        "process 1 of a container, read-only root, 64 MB of `/dev/shm`": "e2e/test_container_start.py::test_a_script_of_torchserves_pages_runs_unchanged",
        "an envelope of one's own": "e2e/test_ts_package_served.py::test_an_envelope_of_ones_own_is_served_and_arguments_are_read_in_a_worker",
        "`argparse` at the import of a handler": "e2e/test_ts_package_served.py::test_an_envelope_of_ones_own_is_served_and_arguments_are_read_in_a_worker",
        "`key_file.json` in the working directory, deleted at the end": "e2e/test_tokens_served.py::test_torchserves_start_writes_the_key_file_and_its_end_deletes_it",
        "tokens are checked from everywhere": "e2e/test_tokens_served.py::test_a_drop_in_start_on_loopback_needs_no_token_and_takes_those_of_the_key_file",
        "a wrong token is answered 400": "e2e/test_tokens_served.py::test_a_wrong_token_gets_torchserves_answer_in_a_drop_in_start",
        "a missing archive in the list of models": "e2e/test_torchserve_command.py::test_what_is_missing_or_broken_is_left_out_and_the_rest_is_served_with_its_workflows",
        "`Custom pip package installation failed`": "repository/test_requirements.py::test_a_failure_is_named_with_what_pip_said_and_leaves_nothing",
        "links in the model store": "e2e/test_management_served.py::test_an_archive_that_is_a_link_in_the_store_is_registered_as_any_other",
        "`import ts` in tests and notebooks": "compat/test_ts.py::test_an_installed_mooring_has_ts_for_tests_and_notebooks",
        "plugins (`--plugins-path`)": "test_docs.py::test_each_key_of_torchserves_without_effect_is_documented",
    },
    "guide-triton.md": {
        "the highest version answers by default": "engine/test_default_version.py::test_of_a_repository_the_highest_version_that_is_ready_answers",
        "`model.py` with `TritonPythonModel`": "e2e/test_triton_python_served.py::test_model_adds_and_subtracts_as_it_does_in_triton",
        "a model asks another model (BLS)": "e2e/test_triton_python_served.py::test_model_asks_another_and_passes_its_answer_on",
        "`auto_complete_config`": "e2e/test_triton_python_served.py::test_configuration_is_completed_by_the_model",
        "a decoupled model with any number of responses": "e2e/test_triton_python_served.py::test_decoupled_model_gives_any_number_of_responses",
        "`EXECUTION_ENV_PATH`": "e2e/test_triton_python_served.py::test_model_runs_in_the_environment_that_it_brings",
        "an ensemble with maps of inputs and outputs": "e2e/test_ensembles_served.py::test_the_documented_ensemble_answers",
        "the direct strategy of sequences": "e2e/test_triton_sequences_served.py::test_a_sequence_has_one_row_of_the_batch_from_its_first_step_to_its_last",
        "more sequences than slots wait": "e2e/test_triton_sequences_served.py::test_more_sequences_than_slots_wait_for_one",
        "queues without a bound": "cli/test_tritonserver.py::test_without_further_flags_all_is_as_in_triton",
        "implicit state": "e2e/test_triton_sequences_served.py::test_the_server_keeps_the_state_of_each_sequence_in_its_worker",
        "`response_cache { enable: true }`": "e2e/test_response_cache_served.py::test_an_equal_request_is_answered_as_before_and_the_statistics_say_so",
        "`rate_limiter`": "test_docs.py::test_each_setting_and_each_error_is_documented_as_it_is",
        "status and unregister of CUDA shared memory without a GPU": "protocols/test_v2_grpc_administration.py::test_a_gpus_shared_memory_is_as_where_there_is_none",
        "typed contents are answered raw over gRPC": "e2e/test_triton_quick_start.py::test_a_program_written_for_triton_runs_as_it_is",
        "`ModelConfig` over REST and gRPC": "e2e/test_triton_configurations_served.py::test_both_protocols_show_the_same_configuration_of_every_model",
        "a load's configuration with numbers in quotes": "e2e/test_triton_quick_start.py::test_a_program_written_for_triton_runs_as_it_is",
        "inputs of different batch sizes are refused": "backends/test_tensors.py::test_inputs_of_a_batched_model_have_as_many_rows",
        "the server is called triton": "e2e/test_triton_quick_start.py::test_a_program_written_for_triton_runs_as_it_is",
        "texts that clients look for": "e2e/test_triton_quick_start.py::test_a_program_written_for_triton_runs_as_it_is",
        "`nv_` metrics": "e2e/test_triton_quick_start.py::test_metrics_have_tritons_names",
        "clients load models only with `--model-control-mode=explicit`": "e2e/test_tritonserver_served.py::test_clients_load_and_unload_from_every_repository_where_that_is_allowed",
        "several model repositories": "e2e/test_tritonserver_served.py::test_several_repositories_are_served_and_a_name_in_both_is_not",
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
    """The first cells of the first table under "Habits"."""
    table = (DOCS / guide).read_text().split("\n## Habits\n")[1].split("| --- | --- |\n")[1].split("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()]


@pytest.mark.parametrize("guide", SHOWN)
def test_each_habit_is_shown_by_a_test(guide):
    assert sorted(rows_of(guide)) == sorted(SHOWN[guide])
    for row, test in SHOWN[guide].items():
        file, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE), (row, test)


def test_torchserves_flags_are_those_of_the_command():
    table = (DOCS / "guide-torchserve.md").read_text().split("| flag | meaning |")[1].split("\n\n")[0]
    named = {
        flag
        for line in table.splitlines()
        for flag in re.findall(r"`(--[a-z-]+)", line.split("|")[1] if "|" in line else "")
    }
    known = {
        option for parameter in torchserve.params for option in parameter.opts if option.startswith("--")
    }
    explained = {"--version", "--dt", "--ppath", "--install-aliases", "--force"}
    assert named == known - explained
