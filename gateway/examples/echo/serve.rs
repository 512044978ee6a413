//! What both echoes need: the address, the times and the limits that conformance suites expect, on one thread.

use std::{convert::Infallible, rc::Rc};

use bytes::Bytes;
use carillon_core::rate::Rate;
use carillon_gateway::{
    engineio::{Application, Config, Cors, Server},
    upload::Upload,
};
use carillon_proto::ids::GatewayId;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::LocalSet};

/// An argument of the command line names another one.
const LISTEN: &str = "127.0.0.1:3000";

pub(crate) fn run(path: &'static str, app: impl Application) -> anyhow::Result<()> {
    let config = Config {
        ping_interval_ms: 300,
        ping_timeout_ms: 200,
        body_ms: 5000,
        max_payload: 1_000_000,
        rate: Rate { per_second: 100_000, burst: 100_000 },
        cors: Cors::Any,
    };
    let server = Server::new(GatewayId(uuid::Uuid::new_v4().into_bytes()), config, None, app);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(path, server))
}

async fn serve<A: Application>(path: &'static str, server: Rc<Server<A>>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).as_deref().unwrap_or(LISTEN)).await?;
    println!("listening on http://{}{path}", listener.local_addr()?);
    tokio::task::spawn_local(server.clone().run());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let server = server.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let server = server.clone();
            async move {
                // Clients of either kind leave out the slash at the end.
                if request.uri().path().trim_end_matches('/') == path.trim_end_matches('/') {
                    return Ok::<_, Infallible>(server.answer(Upload::of(request), &|| {}).await.map(Full::new));
                }
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = StatusCode::NOT_FOUND;
                Ok(response)
            }
        });
        tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
    }
}
