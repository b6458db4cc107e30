//! The spill queue: where a delivery waits while the table is unavailable.

use std::{fmt, sync::OnceLock};

use aws_sdk_sqs::Client;
use lambda_support::{
    aws::{self, SdkConfig},
    env::{Env, EnvError},
    errors::causes,
};
use unith_events::spill::SpillMessage;

const NAME: &str = "SPILL_QUEUE_URL";

/// A queue in SQS. Its client is made when it is first needed.
pub struct SpillQueue {
    url: String,
    aws: SdkConfig,
    client: OnceLock<Client>,
}

impl fmt::Debug for SpillQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpillQueue").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The queue did not take a message.
#[derive(Debug, thiserror::Error)]
#[error("queue `{url}` did not take the message: {cause}")]
pub struct SpillError {
    url: String,
    cause: String,
}

/// Reads `SPILL_QUEUE_URL`; `None` if it is unset.
///
/// # Errors
/// A value that is not the URL of a queue in this region. With an endpoint of one's own for SQS, any host is allowed.
pub fn url_from_env(env: &Env) -> Result<Option<String>, EnvError> {
    let Some(value) = env.optional(NAME) else { return Ok(None) };
    let invalid = |expected| EnvError::Invalid { name: NAME, value: value.to_owned(), expected };
    let (scheme, rest) = value.split_once("://").unwrap_or_default();
    let mut parts = rest.split('/');
    let (host, account, queue) = (parts.next(), parts.next(), parts.next());
    let is_account = account.is_some_and(|account| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()));
    let is_queue = queue.is_some_and(|queue| !queue.is_empty()) && parts.next().is_none();
    if !matches!(scheme, "https" | "http") || !is_account || !is_queue {
        return Err(invalid("the URL of an SQS queue, https://sqs.<region>.amazonaws.com/<account>/<name>"));
    }
    let has_own_endpoint = ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"].iter().any(|name| env.optional(name).is_some());
    let region = env.optional("AWS_REGION").or_else(|| env.optional("AWS_DEFAULT_REGION")).unwrap_or_default();
    let is_ours = host.is_some_and(|host| host.split('.').any(|part| part == region));
    if !has_own_endpoint && (scheme != "https" || !is_ours) {
        return Err(invalid("a queue in the function's own region, over https"));
    }
    Ok(Some(value.to_owned()))
}

impl SpillQueue {
    /// The queue at `url`.
    #[must_use]
    pub fn new(aws: SdkConfig, url: String) -> Self {
        Self { url, aws, client: OnceLock::new() }
    }

    /// Sends a message. An `Ok` is durable.
    ///
    /// # Errors
    /// The queue did not take it.
    pub async fn send(&self, message: &SpillMessage) -> Result<(), SpillError> {
        let send = self.client().send_message().queue_url(&self.url).message_body(message.to_json()).send();
        match Box::pin(send).await {
            Ok(_) => Ok(()),
            Err(error) => Err(SpillError { url: self.url.clone(), cause: causes(&error) }),
        }
    }

    /// Makes the client and opens its connection. A failure is left to the first message.
    pub async fn warm_up(&self) {
        let _ = self.client().get_queue_url().queue_name("warm-up").send().await;
    }

    fn client(&self) -> &Client {
        self.client.get_or_init(|| aws::sqs(&self.aws))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_checked_for_form_and_region() {
        let read = |url: &str, more: &[(&str, &str)]| {
            let pairs = [&[("AWS_REGION", "eu-west-1"), (NAME, url)], more].concat();
            url_from_env(&pairs.into_iter().collect()).map_err(|error| error.to_string())
        };
        let good = "https://sqs.eu-west-1.amazonaws.com/123456789012/spill";
        assert_eq!(read(good, &[]), Ok(Some(good.to_owned())));
        assert_eq!(read("", &[]), Ok(None));
        let local = "http://127.0.0.1:9324/000000000000/spill";
        assert_eq!(read(local, &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9324")]), Ok(Some(local.to_owned())));
        for (url, expected) in [
            ("spill", "the URL of an SQS queue, https://sqs.<region>.amazonaws.com/<account>/<name>"),
            (
                "arn:aws:sqs:eu-west-1:123456789012:spill",
                "the URL of an SQS queue, https://sqs.<region>.amazonaws.com/<account>/<name>",
            ),
            (
                "https://sqs.eu-west-1.amazonaws.com/spill",
                "the URL of an SQS queue, https://sqs.<region>.amazonaws.com/<account>/<name>",
            ),
            (
                "https://sqs.us-east-1.amazonaws.com/123456789012/spill",
                "a queue in the function's own region, over https",
            ),
            (local, "a queue in the function's own region, over https"),
        ] {
            assert_eq!(read(url, &[]).unwrap_err(), format!("{NAME} is `{url}`: expected {expected}"));
        }
    }
}
