use prometheus::{IntCounterVec, IntGauge, Opts};
use tonic::codegen::http::HeaderValue;

use super::*;
use crate::Hop;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn accepts(what: &str) -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(what).unwrap())])
}

async fn page() -> Page {
    let page = Page::default();
    let counter =
        IntCounterVec::new(Opts::new("calls_total", "Calls, \"quoted\"\nand \\"), &["name"]).unwrap();
    counter.with_label_values(&["a\"b\\c\nd"]).inc();
    page.register(Box::new(counter)).unwrap();
    page.register(Box::new(IntGauge::new("open", "Open").unwrap())).unwrap();
    let timings = Timings::new("time_seconds", "Times", &["verb"]).unwrap();
    page.time(&timings).unwrap();
    timings.observe(&["get"], 0.7);
    let traced = |flags: &str| Hop::within(&format!("00-{TRACE}-b7ad6b7169203331-{flags}")).unwrap();
    traced("01").around(async { timings.observe(&["get"], 0.004) }).await;
    traced("00").around(async { timings.observe(&["get"], 9.0) }).await;
    timings.observe(&["gone"], 1.0);
    timings.retain(|verb| verb == "get");
    page
}

#[tokio::test]
async fn a_scraper_gets_the_format_that_it_accepts() {
    let page = page().await;
    let plain = ["", "*/*", "text/plain", "application/openmetrics-text;q=0", "application/openmetrics"];
    for accept in plain {
        assert_eq!(page.answer(&accepts(accept)).unwrap().0, PLAIN, "{accept}");
    }
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for accept in ["application/openmetrics-text", "Application/OpenMetrics-Text; q=0.5", prometheus] {
        assert_eq!(page.answer(&accepts(accept)).unwrap().0, OPEN_METRICS_TYPE, "{accept}");
    }
    let (_, text) = page.answer(&HeaderMap::new()).unwrap();
    assert!(!text.contains(TRACE) && !text.contains("EOF"), "{text}");
}

#[tokio::test]
async fn the_page_as_open_metrics_has_an_exemplar_of_what_is_exported() {
    let (_, text) = page().await.answer(&accepts(OPEN_METRICS)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let has = |line: &str| assert!(lines.contains(&line), "{line} is not in\n{text}");
    has("# TYPE calls counter");
    has("# HELP calls Calls, \\\"quoted\\\"\\nand \\\\");
    has("calls_total{name=\"a\\\"b\\\\c\\nd\"} 1.0");
    has("# TYPE open gauge");
    has("open 0.0");
    has("# TYPE time_seconds histogram");
    has("time_seconds_bucket{verb=\"get\",le=\"0.003\"} 0");
    has("time_seconds_bucket{verb=\"get\",le=\"1.0\"} 2");
    has("time_seconds_bucket{verb=\"get\",le=\"+Inf\"} 3");
    has("time_seconds_count{verb=\"get\"} 3");
    let exemplars: Vec<&&str> = lines.iter().filter(|line| line.contains(" # ")).collect();
    let [one] = exemplars[..] else { panic!("{exemplars:?}") };
    let (sample, exemplar) = one.split_once(" # ").unwrap();
    assert_eq!(sample, "time_seconds_bucket{verb=\"get\",le=\"0.005\"} 1");
    assert!(exemplar.starts_with(&format!("{{trace_id=\"{TRACE}\"}} 0.004 ")), "{exemplar}");
    assert!(!text.contains("gone") && text.ends_with("\n# EOF\n"), "{text}");
}
