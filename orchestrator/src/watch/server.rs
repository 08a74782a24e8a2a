//! Answers requests: with the page, and with an endless response of server-sent events.

use super::{
    follow, guard,
    hub::{Hub, Known, News},
};
use crate::{
    report::html::{self, Stage},
    results::parts::{self, Folder},
    run::environment,
};
use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{StreamExt as _, stream};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use std::{convert::Infallible, io, path::Path, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    time::sleep,
};

/// The largest number of connections. Further connections wait until one ends.
const MOST_CONNECTIONS: usize = 64;
/// The time that a client may take to send a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for which a client may take nothing of what it is sent. Then the kernel ends the connection.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The smallest buffer for requests that hyper allows; a request with more headers is refused.
const BUFFER_BYTES: usize = 16 << 10;
/// The pause after a connection that could not be accepted.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// The script that keeps the page up to date.
const SCRIPT: &str = include_str!("live.js");

/// What all requests share.
struct Shared {
    hub: Arc<Hub>,
    token: Option<String>,
    /// The most recently made page, and its version.
    page: Mutex<Option<(String, Bytes)>>,
}

/// Returns the service that answers requests.
pub(super) fn app(hub: Arc<Hub>, token: Option<String>) -> Router {
    let shared = Shared { hub, token, page: Mutex::default() };
    Router::new().fallback(answer).with_state(Arc::new(shared))
}

/// Accepts connections, for ever.
pub(super) async fn serve(socket: std::net::TcpListener, app: Router) -> Infallible {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let listener = TcpListener::from_std(socket);
    loop {
        let (Ok(listener), Ok(slot)) = (&listener, Arc::clone(&slots).acquire_owned().await) else {
            // There is no way to listen: the run continues without the page.
            std::future::pending::<()>().await;
            continue;
        };
        let Ok(stream) = accept(listener).await else {
            sleep(PAUSE_AFTER_ERROR).await;
            continue;
        };
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
            connection.max_buf_size(BUFFER_BYTES);
            // Errors of a client that has gone away do not matter.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            drop(slot);
        });
    }
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    setsockopt(&stream, TcpUserTimeout, &(UNREAD_TIMEOUT.as_millis() as u32))?;
    Ok(stream)
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let token = shared.token.as_deref();
    let path = guard::admit(request.method(), request.uri().path(), request.headers(), token);
    let mut response = match path {
        Ok("/") => page(&shared).await,
        Ok("/events") => events(&shared),
        Ok(_) => StatusCode::NOT_FOUND.into_response(),
        Err(status) => status.into_response(),
    };
    for (name, value) in [
        ("cache-control", "no-store"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if !response.status().is_success() {
        // Nobody keeps a connection by requests that are refused.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Answers with the current page of the folder. Each version is made only once, and no two at the same time.
async fn page(shared: &Shared) -> Response {
    let folder = shared.hub.folder();
    let mut made = shared.page.lock().await;
    let version = follow::version(folder);
    let bytes = match &*made {
        Some((known, bytes)) if *known == version => bytes.clone(),
        _ => {
            let (folder, of) = (folder.to_path_buf(), version.clone());
            let rendered = tokio::task::spawn_blocking(move || render(&folder, &of)).await;
            match rendered.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(text) => {
                    let bytes = Bytes::from(text);
                    *made = Some((version.clone(), bytes.clone()));
                    bytes
                }
                Err(why) => return (StatusCode::INTERNAL_SERVER_ERROR, why).into_response(),
            }
        }
    };
    let header =
        [(header::CONTENT_TYPE.as_str(), "text/html; charset=utf-8"), ("x-report-version", &version)];
    (header, bytes).into_response()
}

fn render(folder: &Path, version: &str) -> Result<String, String> {
    let folder = Folder::read(folder).map_err(|error| error.to_string())?;
    let script = format!("const shownVersion = {version:?};\n{SCRIPT}");
    Ok(html::page(&parts::gather(vec![folder], environment::backend), Stage::Running { script: &script }))
}

/// Answers with everything so far, and then with what is new.
fn events(shared: &Shared) -> Response {
    let hub = Arc::clone(&shared.hub);
    let changes = hub.join();
    let news = stream::unfold((hub, changes, Known::default()), |(hub, mut changes, mut known)| async move {
        loop {
            let news = hub.news(&mut known);
            if !news.is_empty() {
                return Some((news, (hub, changes, known)));
            }
            changes.changed().await.ok()?;
        }
    });
    let event = |news: News| serde_json::to_string(&news).map(|json| Event::default().data(json));
    let events = news.flat_map(stream::iter).map(event);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
