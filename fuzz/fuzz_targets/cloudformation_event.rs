//! A request of CloudFormation: it gets one response, whatever is in it.

#![no_main]

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use lambda_support::env::{Env, EnvError};
use libfuzzer_sys::fuzz_target;
use provision::{
    cloudformation::{self, response::ResponseError},
    provisioner::Provisioner,
};
use serde_json::Value;
use tokio::{
    runtime::{self, Runtime},
    time::Instant,
};

/// Who has the signature of a response URL can answer for the function.
const SIGNATURE: &str = "b7c1f0d2e94a5a6c8d3e2f1a0b9c8d7e";
/// CloudFormation's limit.
const MAX_RESPONSE_BYTES: usize = 4_096;

/// Its waits take no time: the clock jumps ahead.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime")
});
/// The function without variables and without a network.
static PROVISIONER: LazyLock<Arc<Provisioner>> = LazyLock::new(|| {
    let no_secrets = Err(EnvError::Missing { name: "AWS_REGION", meaning: "the region" });
    Arc::new(Provisioner::new(Env::default(), no_secrets).with_log(|_| ()))
});

fuzz_target!(|text: &str| {
    let Ok(mut input) = serde_json::from_str::<Value>(text) else { return };
    let Some(members) = input.as_object_mut() else { return };
    // Nothing is sent: the client knows no such scheme, and the error has the response that it could not send.
    let query = members.get("ResponseURL").and_then(Value::as_str).and_then(|url| url.split_once('?'));
    let query = query.map_or("", |(_, query)| query);
    let url = format!("unsent://response/?{query}&X-Amz-Signature={SIGNATURE}");
    members.insert("ResponseURL".to_owned(), url.into());
    let (request_type, is_repeated) = (input["RequestType"].clone(), text.contains(SIGNATURE));
    let ResponseError::Refused { response, cause } = respond(&input) else { panic!("there is a response URL") };
    assert!(response.len() <= MAX_RESPONSE_BYTES, "{} bytes: {response}", response.len());
    assert!(is_repeated || !response.contains(SIGNATURE) && !cause.contains(SIGNATURE), "{response} {cause}");
    let response: Value = serde_json::from_str(&response).expect("JSON");
    for name in ["Status", "Reason", "PhysicalResourceId", "StackId", "RequestId", "LogicalResourceId"] {
        assert!(response[name].is_string(), "{response}");
    }
    // Without its variables the function can change nothing, so it must not say that it did.
    assert!(response["Status"] == "FAILED" || request_type == "Delete" || request_type == "Update", "{response}");
});

fn respond(input: &Value) -> ResponseError {
    RUNTIME.block_on(async {
        let deadline = Instant::now() + Duration::from_secs(20);
        cloudformation::handle(&PROVISIONER, input, deadline).await.expect_err("nothing is sent")
    })
}
