use super::*;

fn options(endpoint: &str) -> Options {
    Options { otlp_endpoint: Some(endpoint.to_owned()), ..Options::default() }
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_refused_by_its_key() {
    for endpoint in ["https://127.0.0.1:4317", "127.0.0.1:4317", "http://", "http://a b"] {
        let refused = exporter(endpoint, &options(endpoint), "flotilla").unwrap_err();
        assert!(refused.to_string().contains("telemetry.otlp_endpoint"), "{endpoint}: {refused}");
    }
}

#[tokio::test]
async fn without_a_collector_nothing_runs() {
    let telemetry = Telemetry::open(&Options::default(), "flotilla").unwrap();
    assert!(telemetry.exporting.is_none());
    telemetry.register(&Registry::new()).unwrap();
    telemetry.close().await;
}

#[tokio::test]
async fn a_full_queue_and_a_silent_collector_are_counted_and_block_nobody() {
    let figures = Figures::new().unwrap();
    let (queue, spans) = mpsc::channel(2);
    let provider =
        SdkTracerProvider::builder().with_span_processor(Queue { queue, figures: figures.clone() }).build();
    let tracer = provider.tracer("test");
    for _ in 0..3 {
        drop(opentelemetry::trace::Tracer::start(&tracer, "span"));
    }
    assert_eq!(figures.dropped.with_label_values(&["queue"]).get(), 1);
    // A port of which nobody listens any more.
    let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{at}");
    let exporter = exporter(&endpoint, &options(&endpoint), "flotilla").unwrap();
    let (close, closed) = oneshot::channel();
    drop(close);
    Export { endpoint, exporter, figures: figures.clone(), has_failed: false }.run(spans, closed).await;
    assert_eq!(figures.dropped.with_label_values(&["export"]).get(), 2);
    assert_eq!(figures.exported.get(), 0);
}
