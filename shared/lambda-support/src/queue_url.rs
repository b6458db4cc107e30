//! The URLs of SQS queues, from environment variables.

use crate::env::{Env, EnvError};

/// Reads the variable `name`; `None` if it is unset.
///
/// # Errors
/// A value that is not the URL of a queue in this region. With an endpoint of one's own for SQS, any host is allowed.
pub fn optional(env: &Env, name: &'static str) -> Result<Option<String>, EnvError> {
    let Some(value) = env.optional(name) else { return Ok(None) };
    let invalid = |expected| EnvError::Invalid { name, value: value.to_owned(), expected };
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

/// The same for a variable that must be set.
///
/// # Errors
/// As for [`optional`], and an unset variable, with its meaning.
pub fn required(env: &Env, name: &'static str, meaning: &'static str) -> Result<String, EnvError> {
    optional(env, name)?.ok_or(EnvError::Missing { name, meaning })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "SPILL_QUEUE_URL";

    #[test]
    fn the_url_is_checked_for_form_and_region() {
        let read = |url: &str, more: &[(&str, &str)]| {
            let pairs = [&[("AWS_REGION", "eu-west-1"), (NAME, url)], more].concat();
            optional(&pairs.into_iter().collect(), NAME).map_err(|error| error.to_string())
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

    #[test]
    fn a_required_url_that_is_unset_is_an_error_with_its_meaning() {
        let error = required(&Env::default(), NAME, "the queue of spilled deliveries").unwrap_err().to_string();
        assert_eq!(error, "SPILL_QUEUE_URL is not set: it is the queue of spilled deliveries");
    }
}
