"""The events of a night are those of OpenLineage: its own client reads each one, with every facet, and a server that takes
them gets the same ones as a file.

usage: check_lineage.py BINARY"""

import http.server
import importlib
import inspect
import json
import pkgutil
import sys
import typing

import attr
from openlineage.client import event_v2
from openlineage.client import generated

from project import project, root, run, serve

binary = sys.argv[1]

# Every facet of the client by the address of its schema.
FACETS = {}
for module in pkgutil.iter_modules(generated.__path__):
    module = importlib.import_module(f"openlineage.client.generated.{module.name}")
    for name, kind in inspect.getmembers(module, inspect.isclass):
        if name.endswith("Facet") and hasattr(kind, "_get_schema"):
            FACETS[kind._get_schema()] = kind


def read(kind, value):
    """The object of the client's class for a JSON object; a field that the class does not have is an error."""
    hints = typing.get_type_hints(kind, {**vars(typing), **vars(sys.modules[kind.__module__])})
    known = {field.name: field for field in attr.fields(kind)}
    given = {}
    for name, part in value.items():
        if name in ("_producer", "_schemaURL"):
            continue
        assert name in known, f"{kind.__name__} has no {name}"
        inner = inner_class(hints[name])
        if inner and isinstance(part, list):
            part = [read(inner, one) for one in part]
        elif inner and isinstance(part, dict) and "dict" in str(hints[name]):
            part = {key: read(inner, one) for key, one in part.items()}
        elif inner and isinstance(part, dict):
            part = read(inner, part)
        given[name] = part
    return kind(**given)


def inner_class(hint):
    if inspect.isclass(hint) and attr.has(hint):
        return hint
    return next(filter(None, map(inner_class, typing.get_args(hint))), None)


def facets(of):
    made = {}
    for name, facet in of.items():
        assert facet["_producer"].startswith("urn:c360-ml:"), facet
        made[name] = read(FACETS[facet["_schemaURL"]], facet)
    return made


def dataset(kind, value):
    keys = {key: facets(part) for key, part in value.items() if key.lower().endswith("facets")}
    return kind(value["namespace"], value["name"], **keys)


def event(value):
    assert value["schemaURL"] == event_v2.RunEvent._get_schema(), value["schemaURL"]
    return event_v2.RunEvent(
        eventType=event_v2.RunState[value["eventType"]],
        eventTime=value["eventTime"],
        run=event_v2.Run(value["run"]["runId"], facets(value["run"]["facets"])),
        job=event_v2.Job(value["job"]["namespace"], value["job"]["name"], facets(value["job"]["facets"])),
        inputs=[dataset(event_v2.InputDataset, one) for one in value["inputs"]],
        outputs=[dataset(event_v2.OutputDataset, one) for one in value["outputs"]],
    )


folder = project()
file = folder / "lineage.jsonl"
night = ["--openlineage", file]
run(binary, folder, "train", *night)
run(binary, folder, "score", *night)
lines = [json.loads(line) for line in file.read_text().splitlines()]
events = [event(line) for line in lines]
assert [one.eventType.name for one in events] == ["START", "COMPLETE"] * 2, events
train, score = events[1], events[-1]
assert train.outputs and all("/store/models/" in one.name for one in train.outputs), train.outputs
assert not any("/store/models/" in one.name for one in score.outputs), score.outputs
names = {one.name.rsplit("/store/", 1)[-1]: one for one in score.outputs}
profile = names["profile"]
statistics = profile.outputFacets["outputStatistics"]
live = {name: entry for name, entry in root(folder)["files"].items() if name.startswith("profile/")}
assert statistics.size == sum(entry["bytes"] for entry in live.values()), statistics
assert statistics.fileCount == len(live)
assert len(profile.facets["schema"].fields) == 50
fields = profile.facets["columnLineage"].fields
assert len(fields) == 50, sorted({one.name for one in profile.facets["schema"].fields} - set(fields))
read_by = {name: {one.field for one in of.inputFields} for name, of in fields.items()}
assert read_by["age"] == {"date_of_birth"} and read_by["full_name"] >= {"first_name", "last_name"}, read_by
assert read_by["segments"] >= read_by["churn_risk_score"], "a rule reads the score"
checks = [one.inputFacets["dataQualityAssertions"].assertions for one in score.inputs]
print(f"{len(events)} events with {len(score.inputs)} inputs and {len(score.outputs)} outputs were read by the client")
print(f"the profile has {statistics.rowCount} rows; {len(fields)} of its 50 fields have columns that they come from")
print(f"{sum(map(len, checks))} checks of the sources, {sum(one.success for all in checks for one in all)} passed")

taken = []


class Backend(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        taken.append((self.path, self.headers["Authorization"], json.loads(body)))
        self.send_response(201)
        self.end_headers()


url = f"{serve(Backend)}/api/v1/lineage"
run(binary, folder, "score", "--force", "--openlineage", url, OPENLINEAGE_API_KEY="a-key")
assert [path for path, *_ in taken] == ["/api/v1/lineage"] * 2, taken
assert {key for _, key, _ in taken} == {"Bearer a-key"}
posted = [event(one) for *_, one in taken]
same = lambda one: [(kept.namespace, kept.name) for kept in one.inputs + one.outputs]
assert same(posted[-1]) == same(score)
print("a server was posted the same datasets, with the key")
