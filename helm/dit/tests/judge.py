"""Renders the chart with Helm's own engine and judges what comes out, strictly.

Owns nothing of the chart. Prints the manifests as one YAML text, or as JSON, one document a line; a refusal goes to
standard error. `python3 judge.py render CHART VALUES [CRD...]`, `python3 judge.py check MANIFESTS [CRD...]`,
`python3 judge.py dashboard FILE [CRD...]`: by Grafana's own types, as `npm run schema` in `tests/pictures` writes them.
"""

import copy
import json
import pathlib
import sys

import helm_python
import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.37"


class Loader(yaml.SafeLoader):
    """A CRD has an enum item `=`, which YAML 1.1 takes for something else."""


Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)


def closed(schema):
    """A CRD's schema in which a key that is not there is wrong."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    out = {key: closed(part) for key, part in schema.items() if not key.startswith("x-kubernetes")}
    if isinstance(out.get("pattern"), str):
        # Go takes a flag behind the anchor, Python before it.
        out["pattern"] = out["pattern"].replace("^(?i)", "(?i)^")
    if "properties" in out and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out.setdefault("additionalProperties", False)
    return out


def custom(paths):
    """Schemas of custom resources by (apiVersion, kind)."""
    found = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            crd = yaml.load(file, Loader=Loader)["spec"]
        for version in crd["versions"]:
            schema = closed(copy.deepcopy(version["schema"]["openAPIV3Schema"]))
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{crd['group']}/{version['name']}", crd["names"]["kind"]] = schema
    return found


def judge(documents, schemas):
    """What is wrong, in words."""
    wrong = []
    for document in documents:
        kind, name = document.get("kind"), document.get("metadata", {}).get("name")
        schema = schemas.get((document.get("apiVersion"), kind))
        try:
            if schema:
                jsonschema.validate(document, schema)
            else:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
            place = "/".join(str(step) for step in error.path)
            wrong.append(f"{kind} {name}: {place}: {error.message}")
    return wrong


def judge_dashboard(path):
    """What is wrong, in words; each panel is judged as the kind that it says to be."""
    schema = json.loads(pathlib.Path(__file__).with_name("dashboard.schema.json").read_text(encoding="utf-8"))
    dashboard = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    parts = [("dashboard", schema["$ref"], {**dashboard, "panels": []})]
    for panel in dashboard["panels"]:
        kind = "RowPanel" if panel["type"] == "row" else "Panel"
        parts.append((panel["title"], f"#/definitions/{kind}", panel))
    wrong = []
    for name, kind, part in parts:
        for error in jsonschema.Draft7Validator({**schema, "$ref": kind}).iter_errors(part):
            wrong.append(f"{name}: {'/'.join(map(str, error.absolute_path))}: {error.message}")
    return wrong


def render(chart, values):
    with open(values, encoding="utf-8") as file:
        values = yaml.safe_load(file) or {}
    with helm_python.Chart.load(chart) as loaded:
        manifests = loaded.render(values, name="demo", namespace="registers")
    parts = []
    for path in sorted(manifests):
        if path.endswith(".yaml") and manifests[path].strip():
            parts.append(f"# {path}\n{manifests[path].strip()}\n")
    return "---\n".join(parts)


def main():
    mode, crds = sys.argv[1], sys.argv[4:] if sys.argv[1] == "render" else sys.argv[3:]
    if mode == "dashboard":
        wrong = judge_dashboard(sys.argv[2])
        if wrong:
            sys.exit("\n".join(wrong))
        print("{}")
        return
    try:
        if mode == "render":
            text = render(sys.argv[2], sys.argv[3])
        else:
            with open(sys.argv[2], encoding="utf-8") as file:
                text = file.read()
    except helm_python.HelmError as error:
        sys.exit(f"refused: {error}")
    documents = [document for document in yaml.safe_load_all(text) if document]
    wrong = judge(documents, custom(crds))
    if wrong:
        sys.exit("\n".join(wrong))
    print(json.dumps({"text": text, "documents": documents}))


main()
