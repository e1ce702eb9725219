"""Metrics of a server, read while it is under load."""

import http.server
import threading

import pytest

from csplade.core.errors import UnavailableError
from csplade.loadtest.scrape import Scraper, growth, parse

TEXT = """# HELP csplade_requests_total Requests answered.
csplade_requests_total{{code="OK",method="Search"}} {ok}
csplade_requests_total{{code="OK",method="Encode"}} 2.0
csplade_requests_total{{code="RESOURCE_EXHAUSTED",method="Search"}} 5.0
ray_csplade_stage_seconds_bucket{{le="0.1",stage="score"}} 7
ray_csplade_stage_seconds_count{{stage="score",node="a"}} {ok}
ray_csplade_stage_seconds_sum{{stage="score",node="a"}} 0.5
ray_csplade_stage_seconds_sum{{stage="score",node="b"}} {seconds}
csplade_batch_queries_count 4
csplade_batch_queries_sum {ok}
process_resident_memory_bytes 1.5e+06
process_cpu_seconds_total {seconds}
"""


def test_growth_is_told_by_code_and_stage():
    before, after = (parse(TEXT.format(ok=ok, seconds=s)) for ok, s in ((10, 0.5), (30, 0.9)))
    assert "csplade_stage_seconds_bucket{score}" not in after
    assert after["csplade_stage_seconds_sum{score}"] == pytest.approx(1.4)
    grown = growth(before, after)
    assert grown["answers OK"] == 20
    assert grown["answers RESOURCE_EXHAUSTED"] == 0
    assert grown["score ms"] == pytest.approx(20)
    assert grown["CPU seconds"] == pytest.approx(0.4)


def test_gauges_are_read_meanwhile_and_counters_at_the_ends():
    asked = threading.Semaphore(0)
    answers = iter(range(1, 1000))

    class Endpoint(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(TEXT.format(ok=next(answers), seconds=1).encode())
            asked.release()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever)
        thread.start()
        with Scraper([f"http://127.0.0.1:{endpoint.server_port}/metrics"], every=0.01) as scraper:
            for _ in range(4):
                assert asked.acquire(timeout=30)
        endpoint.shutdown()
        thread.join()
    assert len(scraper.readings) >= 4
    assert {one.values["process_resident_memory_bytes"] for one in scraper.readings} == {1.5e6}
    assert scraper.counted["answers OK"] >= 3


def test_an_endpoint_that_is_not_there_is_named_and_none_is_fine():
    with (
        pytest.raises(UnavailableError, match=r"metrics http://127\.0\.0\.1:9/metrics"),
        Scraper(["http://127.0.0.1:9/metrics"]),
    ):
        pass
    with Scraper([]) as scraper:
        pass
    assert (scraper.readings, scraper.counted) == ([], {})
