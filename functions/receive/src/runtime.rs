//! The receiver as a Lambda service, and the loop that runs it.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use lambda_http::{
    Adapter, Body, Error, IntoResponse, Request, Response, Service,
    lambda_runtime::{LambdaEvent, LambdaInvocation, Runtime},
    service_fn,
    tower::{Layer, ServiceExt, util::MapRequestLayer},
};
use lambda_support::log;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Mutex,
};
use unith_events::timestamp::Timestamp;

use crate::{Receiver, delivery::Delivery, gateway, record::Record};

/// The receiver as a service of gateway events (payload 1.0, 2.0, function URL), which is what Lambda runs; `log` is
/// given the record of each request.
pub fn service(
    receiver: Arc<Receiver>,
    log: impl Fn(&Record) + Clone + Send + Sync + 'static,
) -> impl Service<LambdaEvent<Box<RawValue>>, Response = impl Serialize, Error = Infallible, Future: Send> + Clone {
    let handler = service_fn(move |request: Request| {
        let (receiver, log) = (Arc::clone(&receiver), log.clone());
        async move {
            let (response, record) = receiver.handle(Delivery::from_request(request, Timestamp::now())).await;
            log(&record);
            Ok::<_, Infallible>(Answered(response))
        }
    });
    Adapter::from(handler).map_request(|event: LambdaEvent<Box<RawValue>>| LambdaEvent {
        payload: gateway::neutral(&event.payload),
        context: event.context,
    })
}

/// An answer as it is. A bare response would be asked for its character set, to be decoded with tables of all that exist.
struct Answered(Response<Body>);

impl IntoResponse for Answered {
    fn into_response(self) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(ready(self.0))
    }
}

/// Serves Lambda's invocations until SIGTERM; the one in flight is finished, its answer sent, before this returns.
///
/// No extension is registered to be sent that signal: all that a 2xx promised is durable when it is sent, so there is
/// nothing to save, and registering would lengthen every cold start. Where the signal does come (another extension, a
/// local run), it is obeyed.
pub async fn run(receiver: Arc<Receiver>) -> Result<(), Error> {
    let level = receiver.log_level();
    let log = move |record: &Record| {
        if record.is_wanted_at(level) {
            log::write_line(record);
        }
    };
    let busy = Arc::new(Mutex::new(()));
    let runtime = Runtime::new(service(receiver, log))
        .layer(MapRequestLayer::new(json_or_null))
        .layer(HoldWhileBusy(Arc::clone(&busy)));
    let mut terminate = signal(SignalKind::terminate())?;
    // A task of its own: waking it is a word in memory, waking what the runtime itself waits for is a system call.
    let serving = tokio::spawn(runtime.run());
    tokio::select! {
        ended = serving => ended?,
        _ = async { terminate.recv().await; busy.lock().await } => Ok(()),
    }
}

/// The runtime fails an invocation whose event is not JSON. Lambda sends none; should one come, it is answered like any
/// other request that leads nowhere.
fn json_or_null(mut invocation: LambdaInvocation) -> LambdaInvocation {
    if serde_json::from_slice::<&RawValue>(&invocation.body).is_err() {
        invocation.body = "null".into();
    }
    invocation
}

/// Holds the lock from the moment an invocation arrives until its answer has been handed to Lambda.
struct HoldWhileBusy(Arc<Mutex<()>>);

struct Holding<S> {
    inner: S,
    busy: Arc<Mutex<()>>,
}

impl<S> Layer<S> for HoldWhileBusy {
    type Service = Holding<S>;
    fn layer(&self, inner: S) -> Holding<S> {
        Holding { inner, busy: Arc::clone(&self.0) }
    }
}

impl<S> Service<LambdaInvocation> for Holding<S>
where
    S: Service<LambdaInvocation, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, invocation: LambdaInvocation) -> Self::Future {
        let busy = Arc::clone(&self.busy);
        let answered = self.inner.call(invocation);
        Box::pin(async move {
            let _held = busy.lock().await;
            answered.await
        })
    }
}
