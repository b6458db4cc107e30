//! The middleware that counts the calls of the management API and makes them fail.

use std::{convert::Infallible, io, iter, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{MatchedPath, Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, LOCATION, RETRY_AFTER},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::{
    call::Call,
    engine::Engine,
    faults::{FailingCall, Fault},
};

const MAINTENANCE: &str = "<!doctype html><title>Maintenance</title><p>We will be back soon.</p>";
/// One piece of an endless response.
static WHITE_SPACE: [u8; 64 * 1024] = [b' '; 64 * 1024];

pub(super) async fn inject_faults(
    State(engine): State<Engine>,
    route: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let call = Call::of(request.method(), route.as_str());
    let (latency, failing) = {
        let mut state = engine.lock();
        state.calls.extend(call);
        let is_of = |head_id: &String| request.uri().to_string().contains(head_id);
        let matches = |failing: &&mut FailingCall| {
            failing.times > 0
                && [Some(Call::Any), call].contains(&Some(failing.call))
                && failing.head_id.as_ref().is_none_or(is_of)
        };
        let failing = state.faults.failing.iter_mut().find(matches).map(|failing| {
            failing.times -= 1;
            failing.clone()
        });
        (Duration::from_millis(state.faults.latency_ms), failing)
    };
    tokio::time::sleep(latency).await;
    let Some(failing) = failing else { return next.run(request).await };
    if failing.after_effect {
        next.run(request).await;
    }
    fail(failing).await
}

async fn fail(failing: FailingCall) -> Response {
    let code = |status| StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = (CONTENT_TYPE, "application/json");
    match failing.how {
        Fault::Status(status, retry_after) => {
            let body = failing.says.unwrap_or_else(|| "injected fault".to_owned());
            let mut response = (code(status), body).into_response();
            let date = failing.retry_after.and_then(|date| HeaderValue::try_from(date).ok());
            if let Some(value) = retry_after.map(HeaderValue::from).or(date) {
                response.headers_mut().insert(RETRY_AFTER, value);
            }
            response
        }
        Fault::Reset => {
            let broken = [Ok(Bytes::from_static(b"{")), Err(io::Error::other("injected fault"))];
            Response::new(Body::from_stream(stream::iter(broken)))
        }
        Fault::Hang => std::future::pending().await,
        Fault::Html => ([(CONTENT_TYPE, "text/html")], MAINTENANCE).into_response(),
        Fault::Redirect(status, location) => (code(status), [(LOCATION, location)]).into_response(),
        Fault::Endless => {
            let white_space = iter::repeat(Bytes::from_static(&WHITE_SPACE));
            let chunks = iter::once(Bytes::from_static(b"[")).chain(white_space).map(Ok::<_, Infallible>);
            ([json], Body::from_stream(stream::iter(chunks))).into_response()
        }
        Fault::Body(status, text) => (code(status), [json], text).into_response(),
    }
}
