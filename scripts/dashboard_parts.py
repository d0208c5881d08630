"""Panels, variables and the grid of the Grafana dashboards, on the typed builders of grafana-foundation-sdk."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmaps
from grafana_foundation_sdk.models import prometheus as queries

Panel = Any
"""A builder of one panel. The builders of the SDK have the same methods, and no class in common that has them."""

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS = 24  # of Grafana's grid
GREEN, ORANGE, RED, BLUE, GRAY = "green", "orange", "red", "blue", "text"

STATES = {1: ("READY", GREEN), 2: ("LOADING", BLUE), 3: ("UNLOADING", GRAY), 4: ("FAILED", RED)}
"""Number that ``state_number`` gives a version -> its state and the color of it."""


class Query(NamedTuple):
    """A query of PromQL, and the name of its lines, with labels as in ``{{model_name}}``."""

    expr: str
    legend: str


class Section(NamedTuple):
    """Panels below a heading; without a title there is no heading. Each panel is so wide, of 24, and so high."""

    title: str
    panels: Sequence[Panel]
    width: int = 12
    height: int = 8
    collapsed: bool = False


def lines(
    title: str,
    description: str,
    *shown: Query,
    unit: str = "short",
    limit: float | None = None,
    top: float | None = None,
    bars: bool = False,
    stacked: bool = False,
) -> Panel:
    """Return a panel of lines over time. What lies above ``limit`` is shaded; ``top`` is the end of the axis."""
    panel = (
        _with_queries(timeseries.Panel(), title, description, shown)
        .unit(unit)
        .min(0)
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.TABLE)
            .placement(kinds.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
        )
        .show_points(kinds.VisibilityMode.NEVER)
        .fill_opacity(60 if bars else 10)
        .line_width(1)
    )
    if top is not None:
        panel.max(top)
    if bars:
        panel.draw_style(kinds.GraphDrawStyle.BARS)
    if stacked:
        panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if limit is not None:
        panel.thresholds(_steps((limit, RED)))
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(kinds.GraphTresholdsStyleMode.DASHED_AND_AREA)
        )
    return panel


def number(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "short",
    limits: Sequence[tuple[float, str]] = (),
    mappings: Sequence[models.ValueMap] = (),
) -> Panel:
    """Return a panel that shows the value of now, colored by the highest of ``limits`` that it has reached."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .targets([_target(Query(expr, title), "A").instant()])
        .unit(unit)
        .thresholds(_steps(*limits))
        .color_mode(kinds.BigValueColorMode.VALUE)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if mappings:
        panel.mappings(list(mappings))
    return panel


def bars(title: str, description: str, shown: Query, *, unit: str) -> Panel:
    """Return a panel with a bar for each series, of the values of now."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .targets([_target(shown, "A").instant()])
        .unit(unit)
        .min(0)
        .thresholds(_steps())
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def buckets(title: str, description: str, expr: str, *, unit: str) -> Panel:
    """Return a heat map of a histogram whose increase by bucket ``expr`` is, with the label ``le``."""
    target = _target(Query(expr, "{{le}}"), "A").format(queries.PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .targets([target])
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(kinds.AxisPlacement.LEFT))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmaps.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .fill("dark-orange")
            .scale(heatmaps.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
            .reverse(False)
        )
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_gap(1)
    )


def states(title: str, description: str, shown: Query) -> Panel:
    """Return bands over time of numbers that ``STATES`` names."""
    return (
        _with_queries(statetimeline.Panel(), title, description, [shown])
        .mappings([STATE_NAMES])
        .thresholds(_steps())
        .show_value(kinds.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .fill_opacity(70)
        .line_width(0)
        .legend(common.VizLegendOptions().show_legend(False).calcs([]))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.SINGLE))
    )


class Column(NamedTuple):
    """A column of a table: its heading, the query of its values, their unit."""

    heading: str
    expr: str
    unit: str = "short"


def table(
    title: str,
    description: str,
    keys: Sequence[tuple[str, str]],
    columns: Sequence[Column],
    link: tuple[str, str],
) -> Panel:
    """Return a table with a row for each combination of the labels ``keys``, given with their headings.

    The queries are joined by these labels. ``link`` is the title and the URL of a link on the first key.
    """
    targets = [
        _target(Query(column.expr, ""), chr(ord("A") + index)).instant().format(queries.PromQueryFormat.TABLE)
        for index, column in enumerate(columns)
    ]
    values = {f"Value #{chr(ord('A') + index)}": column for index, column in enumerate(columns)}
    renamed = dict(keys) | {name: column.heading for name, column in values.items()}
    panel = (
        tables.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .targets(targets)
        .thresholds(_steps())
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {name: index for index, name in enumerate(renamed)},
                    "renameByName": renamed,
                },
            )
        )
        .override_by_name(
            keys[0][1],
            [models.DynamicConfigValue("links", [{"title": link[0], "url": link[1], "targetBlank": False}])],
        )
    )
    for column in columns:
        properties = [models.DynamicConfigValue("unit", column.unit)]
        if column.heading == "State":
            properties = [
                models.DynamicConfigValue("mappings", [STATE_NAMES.to_json()]),
                models.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
            ]
        panel.override_by_name(column.heading, properties)
    return panel


def choice(
    name: str, label: str, query: str, *, many: bool, all_value: str | None = None
) -> dashboard.QueryVariable:
    """Return a variable whose values ``query`` finds. With ``many`` there is All, which is the first choice."""
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": "StandardVariableQuery"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(many)
        .include_all(many)
    )
    if many:
        variable.current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    if all_value is not None:
        variable.all_value(all_value)
    return variable


def source_choice() -> dashboard.DatasourceVariable:
    """Return the variable for the Prometheus to ask."""
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus").regex("")


def link(title: str, uid: str) -> dashboard.DashboardLink:
    """Return a link at the top to another board, which keeps the time range and the variables."""
    return (
        dashboard.DashboardLink(title)
        .type(models.DashboardLinkType.LINK)
        .url(f"/d/{uid}")
        .keep_time(True)
        .include_vars(True)
        .icon("dashboard")
    )


def place(board: dashboard.Dashboard, sections: Iterable[Section]) -> None:
    """Add the panels of the sections to a board: from left to right, then in the next line, and with ids in order.

    Raises ValueError where a panel is wider than the grid.
    """
    y, number_of = 0, 1
    for section in sections:
        if not 0 < section.width <= COLUMNS:
            raise ValueError(
                f"section {section.title!r}: panels are 1 to {COLUMNS} wide, not {section.width}"
            )
        row = None
        if section.title:
            row = dashboard.Row(section.title).id(number_of).collapsed(section.collapsed)
            row.grid_pos(models.GridPos(h=1, w=COLUMNS, x=0, y=y))
            y, number_of = y + 1, number_of + 1
            if not section.collapsed:
                board.with_row(row)
        per_line = COLUMNS // section.width
        for index, panel in enumerate(section.panels):
            below, right = divmod(index, per_line)
            position = models.GridPos(
                h=section.height, w=section.width, x=right * section.width, y=y + below * section.height
            )
            panel.id(number_of).grid_pos(position)
            number_of += 1
            if row is not None and section.collapsed:
                row.with_panel(panel)
            else:
                board.with_panel(panel)
        if row is not None and section.collapsed:
            board.with_row(row)
        else:
            y += -(-len(section.panels) // per_line) * section.height


def state_number(selector: str, by: str) -> str:
    """Return the query of the number in ``STATES`` for each version that the selector finds."""
    return " or ".join(
        f'max by ({by}) (mooring_model_state{{{selector},state="{state}"}}) * {value}'
        for value, (state, _) in STATES.items()
    )


def _with_queries(panel: Panel, title: str, description: str, shown: Sequence[Query]) -> Panel:
    targets = [_target(query, chr(ord("A") + index)) for index, query in enumerate(shown)]
    return panel.title(title).description(description).datasource(SOURCE).targets(targets)


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(ref).datasource(SOURCE)
    target.editor_mode(queries.QueryEditorMode.CODE)
    return target.range().legend_format(query.legend) if query.legend else target


def _steps(*limits: tuple[float, str]) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color=GREEN)]
    steps += [models.Threshold(value=float(value), color=color) for value, color in limits]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


STATE_NAMES = models.ValueMap(
    {
        str(value): models.ValueMappingResult(text=state, color=color, index=value - 1)
        for value, (state, color) in STATES.items()
    }
)
