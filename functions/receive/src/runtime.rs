//! The handler as a Lambda service, and the loop that runs it.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
};

use lambda_http::{
    Adapter, Body, Error, IntoResponse, Request, Response, Service,
    lambda_runtime::{LambdaEvent, LambdaInvocation, Runtime},
    service_fn,
    tower::{ServiceExt, util::MapRequestLayer},
};
use lambda_support::log;
use serde::Serialize;
use serde_json::value::RawValue;
use unith_events::timestamp::Timestamp;

use crate::{delivery::Delivery, delivery_log::DeliveryLog, gateway, handler::Receiver};

/// A service of gateway events: payload 1.0, payload 2.0, function URLs. `write_log` gets the log of each request.
pub fn service(
    receiver: Arc<Receiver>,
    write_log: impl Fn(&DeliveryLog) + Clone + Send + Sync + 'static,
) -> impl Service<LambdaEvent<Box<RawValue>>, Response = impl Serialize, Error = Infallible, Future: Send> + Clone {
    let handler = service_fn(move |request: Request| {
        let (receiver, write_log) = (Arc::clone(&receiver), write_log.clone());
        async move {
            let (response, log) = receiver.handle(Delivery::from_request(request, Timestamp::now())).await;
            write_log(&log);
            Ok::<_, Infallible>(Plain(response))
        }
    });
    Adapter::from(handler).map_request(|event: LambdaEvent<Box<RawValue>>| LambdaEvent {
        payload: gateway::neutral(&event.payload),
        context: event.context,
    })
}

/// A response whose body is sent as it is. `lambda_http` looks a bare one's character set up in tables of all that exist.
struct Plain(Response<Body>);

impl IntoResponse for Plain {
    fn into_response(self) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(ready(self.0))
    }
}

/// Serves Lambda's invocations until the environment ends.
///
/// No extension is registered to be sent SIGTERM: whatever a 2xx promised is durable before it is sent, and registering would
/// lengthen every cold start.
pub async fn run(receiver: Arc<Receiver>) -> Result<(), Error> {
    let level = receiver.log_level();
    let write_log = move |log: &DeliveryLog| {
        if log.is_wanted_at(level) {
            log::write_line(log);
        }
    };
    let runtime = Runtime::new(service(receiver, write_log)).layer(MapRequestLayer::new(json_or_null));
    // A task of its own: waking it is a word in memory, waking what the runtime itself waits for is a system call.
    tokio::spawn(runtime.run()).await?
}

/// Replaces an event that is not JSON by `null`, which gets a 404: the runtime would fail its invocation. Lambda sends none.
fn json_or_null(mut invocation: LambdaInvocation) -> LambdaInvocation {
    if serde_json::from_slice::<&RawValue>(&invocation.body).is_err() {
        invocation.body = "null".into();
    }
    invocation
}
