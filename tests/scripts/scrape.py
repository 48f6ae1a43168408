"""Reads metrics as Prometheus would: HTTP, then the strict OpenMetrics parser. Prints JSON:
{"types": {family: type}, "samples": {series: value}}."""

import http.client
import json
import socket
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families


class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def connection(endpoint):
    if endpoint.startswith("unix:"):
        return Unix(endpoint.removeprefix("unix:"), timeout=10)
    return http.client.HTTPConnection(endpoint.removeprefix("http://").removesuffix("/metrics"), timeout=10)


def scrape(endpoint):
    client = connection(endpoint)
    client.request("GET", "/metrics", headers={"Host": "localhost"})
    answer = client.getresponse()
    assert answer.status == 200, answer.status
    kind = answer.getheader("Content-Type")
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8", kind
    text = answer.read().decode()
    types, samples = {}, {}
    for family in text_string_to_metric_families(text):
        types[family.name] = family.type
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    # Others are refused on the same connection.
    for method, path, host, status in (
        ("GET", "/", "localhost", 404),
        ("POST", "/metrics", "localhost", 405),
        ("GET", "/metrics", "localhost.example.org", 200 if isinstance(client, Unix) else 403),
    ):
        client.request(method, path, headers={"Host": host})
        answer = client.getresponse()
        answer.read()
        assert answer.status == status, (method, path, host, answer.status)
    return {"types": types, "samples": samples}


print(json.dumps(scrape(sys.argv[1])))
