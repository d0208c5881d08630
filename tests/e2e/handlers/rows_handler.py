"""Answers with what it was given, as Python writes it: the text of a row, or with ``show: headers`` its headers."""

from pathlib import Path


class RowsHandler:
    def initialize(self, context):
        self.properties = context.system_properties

    def handle(self, data, context):
        return [self.describe(index, row, context) for index, row in enumerate(data)]

    def describe(self, index, row, context):
        show = context.get_request_header(index, "show")
        if show == "headers":
            return context.get_all_request_header(index)
        if show == "id":
            return context.get_request_id(index)
        if show == "context":
            keep = {
                key: self.properties[key] for key in ("gpu_id", "batch_size", "server_name", "server_version")
            }
            return keep | {
                "model_name": context.model_name,
                "at_home": Path.cwd().samefile(self.properties["model_dir"]),
                "handler": context.manifest["model"]["handler"],
                "yaml": context.model_yaml_config,
            }
        return repr(row)
