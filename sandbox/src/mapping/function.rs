//! The function behind a mapping, and its invocations.

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

type Handler = Arc<dyn Fn(Value) -> BoxFuture<'static, Result<Value, String>> + Send + Sync>;

/// A function, and how long an invocation may take.
pub(crate) struct Function {
    handler: Handler,
    timeout: Duration,
}

/// An invocation that runs although nobody waits for its response. Dropping it stops the function.
pub(crate) struct LateInvocation(JoinSet<Result<Value, String>>);

impl Function {
    pub(crate) fn new<F, E>(handler: impl Fn(Value) -> F + Send + Sync + 'static, timeout: Duration) -> Self
    where
        F: Future<Output = Result<Value, E>> + Send + 'static,
        E: Display,
    {
        let handler: Handler = Arc::new(move |event| {
            let invocation = handler(event);
            Box::pin(async move { invocation.await.map_err(|error| error.to_string()) })
        });
        Self { handler, timeout }
    }

    /// Invokes the function. If it fails or times out, it has no response. If it timed out, it goes on.
    pub(crate) async fn invoke(&self, event: Value) -> (Option<Value>, Option<LateInvocation>) {
        let mut invocation = self.begin(event, Duration::ZERO);
        match timeout(self.timeout, invocation.join_next()).await {
            Ok(Some(Ok(Ok(response)))) => (Some(response), None),
            Ok(_) => (None, None),
            Err(_) => (None, Some(LateInvocation(invocation))),
        }
    }

    /// Invokes the function after `delay`, as if it had timed out before.
    pub(crate) fn invoke_late(&self, event: Value, delay: Duration) -> LateInvocation {
        LateInvocation(self.begin(event, delay))
    }

    /// A set, so that a panic ends this invocation alone, and so that dropping it stops the function.
    fn begin(&self, event: Value, delay: Duration) -> JoinSet<Result<Value, String>> {
        let handler = Arc::clone(&self.handler);
        JoinSet::from_iter([async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            handler(event).await
        }])
    }
}

impl LateInvocation {
    /// Waits until the function has finished. Its response counts for nothing.
    pub(crate) async fn finish(mut self) {
        self.0.join_next().await;
    }
}
