//! The AWS SDK's configuration: TLS by rustls on ring, few roots, short time-outs, quick retries.

use std::{fmt, time::Duration};

pub use aws_config::SdkConfig;
use aws_config::{
    BehaviorVersion, Region, identity::IdentityCache, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig,
};
use aws_sdk_dynamodb::{
    config::{Credentials, SharedCredentialsProvider},
    error::ProvideErrorMetadata,
};
use aws_smithy_runtime::client::retries::{RetryPartition, TokenBucket};
use aws_smithy_types::retry::ReconnectMode;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    env::{Env, EnvError},
    http_client::HttpClient,
};

/// Amazon Trust Services' four roots and the one they are cross-signed by.
///
/// AWS endpoints of the commercial partition chain to them. Source: Debian's `ca-certificates`. The first one to expire does so
/// on 2037-12-31.
const AMAZON_ROOTS: [&str; 5] = [
    include_str!("roots/amazon-root-ca-1.pem"),
    include_str!("roots/amazon-root-ca-2.pem"),
    include_str!("roots/amazon-root-ca-3.pem"),
    include_str!("roots/amazon-root-ca-4.pem"),
    include_str!("roots/starfield-services-root-ca-g2.pem"),
];

/// Other partitions (China, `GovCloud`, isolated regions) may chain elsewhere.
const OTHER_PARTITIONS: [&str; 5] = ["cn-", "us-gov-", "us-iso", "eu-isoe-", "eusc-"];

/// A service of the same region responds in some milliseconds. An attempt that takes longer is repeated on a new connection:
/// its connection may have died while the environment was frozen.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(700);
/// `provision` has more time than a delivery.
const PATIENT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// A page of 1 MB takes longer than an item, on little CPU most of all.
const PAGE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
const PAGE_ATTEMPTS: u32 = 3;
/// Four attempts that all time out take less than 3.2 s, pauses included.
const MAX_ATTEMPTS: u32 = 4;
/// The SDK's own first back-off is up to 1 s, and UNITH waits for 5 s in all.
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(400);

/// The SDK's configuration: region, credentials and endpoints from the SDK's own variables.
///
/// Lambda puts them there. The SDK's provider chains, e.g. profiles and instance metadata, would be a third of the binary, and
/// are walked through at every start.
///
/// # Errors
/// A missing `AWS_REGION`, missing credentials, or an `AWS_CA_BUNDLE` or `SSL_CERT_FILE` that cannot be read or holds no
/// certificates.
pub fn config(env: &Env) -> Result<SdkConfig, EnvError> {
    let config = config_without_credentials(env)?;
    let key = env.required("AWS_ACCESS_KEY_ID", CREDENTIALS)?;
    let secret = env.required("AWS_SECRET_ACCESS_KEY", CREDENTIALS)?;
    let token = env.optional("AWS_SESSION_TOKEN").map(str::to_owned);
    let credentials = Credentials::new(key, secret, token, None, "environment");
    Ok(config.into_builder().credentials_provider(SharedCredentialsProvider::new(credentials)).build())
}

/// The same without credentials, for a caller that sets its own.
///
/// # Errors
/// As for [`config`].
pub fn config_without_credentials(env: &Env) -> Result<SdkConfig, EnvError> {
    let region = env
        .optional("AWS_REGION")
        .or_else(|| env.optional("AWS_DEFAULT_REGION"))
        .ok_or(EnvError::Missing { name: "AWS_REGION", meaning: "the region of the table and the secrets" })?;
    let http = HttpClient::new(roots(env, region)?, CONNECT_TIMEOUT)
        .map_err(|_| EnvError::Contradiction("TLS cannot be set up: its versions and cipher suites do not fit"))?;
    let timeouts =
        TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
    let retries = RetryConfig::standard()
        .with_max_attempts(MAX_ATTEMPTS)
        // Our HTTP client decides which connections to keep. The SDK would complain that it cannot.
        .with_reconnect_mode(ReconnectMode::ReuseAllConnections)
        .with_initial_backoff(INITIAL_BACKOFF)
        .with_max_backoff(MAX_BACKOFF);
    let is_on = |name: &str| env.optional(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .http_client(http)
        .timeout_config(timeouts)
        .retry_config(retries)
        // Credentials do not change while an environment lives.
        .identity_cache(IdentityCache::no_cache())
        // The attempt's time-out ends a stalled stream.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .use_fips(is_on("AWS_USE_FIPS_ENDPOINT"))
        .use_dual_stack(is_on("AWS_USE_DUALSTACK_ENDPOINT"))
        .service_config(Variables(env.clone()));
    config.set_endpoint_url(env.optional("AWS_ENDPOINT_URL").map(str::to_owned));
    Ok(config.build())
}

/// Retries without a quota: the time until the response is due bounds them.
///
/// The SDK's own quota is shared by all calls of a client, and used up after some 17 failures. Every delivery would then have
/// one attempt instead of four. [`SdkConfig`] has no field for it, so each client's configuration gets it.
pub fn without_retry_quota() -> RetryPartition {
    RetryPartition::custom("unlimited").token_bucket(TokenBucket::unlimited()).build()
}

/// A client of `DynamoDB`: four attempts of 700 ms.
pub fn dynamodb(config: &SdkConfig) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::from(config).retry_partition(without_retry_quota()).build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// A client of `DynamoDB` for a function that has a queue to fall back on: two attempts of 350 ms.
pub fn dynamodb_before_queue(config: &SdkConfig) -> aws_sdk_dynamodb::Client {
    dynamodb(&with_attempts(config, 2, Duration::from_millis(350)))
}

/// A client of `DynamoDB` for a function that reads whole pages, and that no delivery waits for: three attempts of 2 s.
pub fn patient_dynamodb(config: &SdkConfig) -> aws_sdk_dynamodb::Client {
    dynamodb(&with_attempts(config, PAGE_ATTEMPTS, PAGE_ATTEMPT_TIMEOUT))
}

/// A client of SQS: two attempts of 300 ms.
pub fn sqs(config: &SdkConfig) -> aws_sdk_sqs::Client {
    let config = with_attempts(config, 2, Duration::from_millis(300));
    let config = aws_sdk_sqs::config::Builder::from(&config).retry_partition(without_retry_quota()).build();
    aws_sdk_sqs::Client::from_conf(config)
}

/// A client of Secrets Manager.
pub fn secrets_manager(config: &SdkConfig) -> aws_sdk_secretsmanager::Client {
    let config = aws_sdk_secretsmanager::config::Builder::from(config).retry_partition(without_retry_quota()).build();
    aws_sdk_secretsmanager::Client::from_conf(config)
}

/// The same with 3 s per attempt, for a function that has more time than a delivery.
///
/// A write whose attempt timed out may have been carried out.
pub fn patient_secrets_manager(config: &SdkConfig) -> aws_sdk_secretsmanager::Client {
    secrets_manager(&with_attempts(config, MAX_ATTEMPTS, PATIENT_ATTEMPT_TIMEOUT))
}

/// The same with `attempts` attempts of `timeout` each.
pub fn with_attempts(config: &SdkConfig, attempts: u32, timeout: Duration) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .operation_attempt_timeout(timeout)
        .build();
    let retries = config.retry_config().cloned().unwrap_or_else(RetryConfig::standard).with_max_attempts(attempts);
    config.to_builder().timeout_config(timeouts).retry_config(retries).build()
}

const CREDENTIALS: &str =
    "what the SDK signs with; Lambda sets it, on your machine use `aws configure export-credentials --format env`";

/// Variables for one service, e.g. `AWS_ENDPOINT_URL_DYNAMODB`.
struct Variables(Env);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Variables") // it holds credentials
    }
}

impl LoadServiceConfig for Variables {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let service = key.service_id().to_uppercase().replace(' ', "_");
        self.0.optional(&format!("{}_{service}", key.env())).map(str::to_owned)
    }
}

/// Whether IAM denied a call.
pub fn is_denied(error: &impl ProvideErrorMetadata) -> bool {
    error.code() == Some("AccessDeniedException")
}

fn roots(env: &Env, region: &str) -> Result<RootCertStore, EnvError> {
    for name in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        if let Some(path) = env.optional(name) {
            return read_bundle(name, path);
        }
    }
    let mut roots = RootCertStore::empty();
    if OTHER_PARTITIONS.iter().any(|prefix| region.starts_with(prefix)) {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            let meaning = "the roots to trust in this region, of which this system has none";
            return Err(EnvError::Missing { name: "AWS_CA_BUNDLE", meaning });
        }
    } else {
        let amazons = AMAZON_ROOTS.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
        roots.add_parsable_certificates(amazons.flatten());
    }
    Ok(roots)
}

fn read_bundle(name: &'static str, path: &str) -> Result<RootCertStore, EnvError> {
    let invalid =
        || EnvError::Invalid { name, value: path.to_owned(), expected: "a readable file of PEM certificates" };
    let pem = std::fs::read(path).map_err(|_| invalid())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|_| invalid())?).map_err(|_| invalid())?;
    }
    if roots.is_empty() { Err(invalid()) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_roots_are_roots() {
        assert_eq!(roots(&Env::default(), "eu-west-1").unwrap().len(), AMAZON_ROOTS.len());
    }

    #[test]
    fn a_bundle_that_is_none_names_its_variable() {
        let this_file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/aws.rs");
        for path in ["/nonexistent.pem", this_file] {
            let env: Env = [("AWS_CA_BUNDLE", path)].into_iter().collect();
            let error = roots(&env, "eu-west-1").unwrap_err().to_string();
            assert_eq!(error, format!("AWS_CA_BUNDLE is `{path}`: expected a readable file of PEM certificates"));
        }
    }

    #[test]
    fn other_partitions_use_the_systems_roots() {
        let native = rustls_native_certs::load_native_certs().certs.len();
        assert!(native > AMAZON_ROOTS.len(), "this test needs a system with roots: {native}");
        for region in ["cn-north-1", "us-gov-west-1", "us-iso-east-1"] {
            let trusted = roots(&Env::default(), region).unwrap().len();
            // Some may be of a kind that rustls does not take.
            assert!((AMAZON_ROOTS.len() + 1..=native).contains(&trusted), "{region}: {trusted} of {native}");
        }
    }
}
