//! Counters over HTTP, for Prometheus.

use flock_engine::Flock;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at a time; more wait.
const CONNECTIONS: usize = 16;
/// How long a connection may take with its request, the next one after an answer included.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait when the system has no descriptor left.
const PAUSE: Duration = Duration::from_millis(200);
const TYPE: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Serves the engine's counters at `/metrics` as long as this runtime runs, and returns where.
pub(super) async fn serve(addr: SocketAddr, flock: &Flock) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(addr).await?;
    let at = listener.local_addr()?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(flock.metrics()));
    tokio::task::spawn_local(accept(listener, Rc::new(registry)));
    Ok(at)
}

async fn accept(listener: TcpListener, registry: Rc<Registry>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let registry = registry.clone();
        tokio::task::spawn_local(async move {
            let answer = service_fn(|request| {
                let response = respond(&request, &registry);
                async { Ok::<_, Infallible>(response) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), answer);
            let _broke_off = serving.await;
            drop(place);
        });
    }
}

fn respond(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let mut text = String::new();
    let status = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match encode(&mut text, registry) {
            Ok(()) => StatusCode::OK,
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        },
        (&Method::GET | &Method::HEAD, _) => StatusCode::NOT_FOUND,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TYPE);
    response
}
