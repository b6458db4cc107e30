//! How long the rejection of a forged request takes, by its cause. The times are figures, and none is asserted.
//!
//! `REJECTION_SAMPLES` sets how many requests are made per cause. A shared machine adds noise, so a full run is made alone.

use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use tests::{
    delivery::{HEAD, KEY, event, sign},
    gateway_event::http_api_event,
    key_ring::{active, ring},
    receive_harness::ReceiveHarness,
};

use crate::{
    platform::{OTHERS_KEY, WRONG_KEY},
    variable,
};

/// The part of the samples that is compared. Interrupts make the others slow.
const COMPARED: f64 = 0.95;

#[tokio::test]
async fn rejections_are_equal_to_the_byte_and_their_times_are_printed() {
    let samples: usize = variable("REJECTION_SAMPLES", 50);
    let harness = ReceiveHarness::without_ring().await;
    harness.set_ring(&ring(&[active(HEAD, KEY), active("another-head", OTHERS_KEY)])).await;
    let receiver = harness.receiver().await;
    let causes = causes();
    let expected = receiver.invoke(&causes[0].1).await.to_value();
    let (mut times, mut random) = (vec![Vec::with_capacity(samples); causes.len()], Rng::with_seed(1));
    let mut order: Vec<_> = (0..causes.len()).collect();
    for _ in 0..samples {
        random.shuffle(&mut order);
        for &cause in &order {
            let response = receiver.invoke(&causes[cause].1).await;
            assert_eq!(response.to_value(), expected, "{}", causes[cause].0);
            times[cause].push(microseconds(response.took));
        }
    }
    assert!(harness.table.items().await.is_empty());
    println!("{samples} requests per cause: the median of the time in µs, and Welch's t against a wrong key");
    let wrong_key = times[0].clone();
    for ((cause, _), times) in causes.iter().zip(&mut times) {
        let t = welch(times, &wrong_key);
        times.sort_by(f64::total_cmp);
        println!("  {cause:<22} {:>8.1} {t:>8.1}", times[times.len() / 2]);
    }
    println!("  first against last byte: t = {:.1}", welch(&times[1], &times[2]));
}

/// The causes, with requests of one body. The first three differ in nothing but the signature's digits.
fn causes() -> Vec<(&'static str, Value)> {
    let body = event(&serde_json::json!({}));
    let good = hex::decode(sign(&body, KEY)).unwrap();
    let wrong_at = |index: usize| {
        let mut signature = good.clone();
        signature[index] ^= 1;
        http_api_event(&body, Some(&hex::encode(signature)))
    };
    let mut undecodable = http_api_event(&body, Some(&hex::encode(&good)));
    undecodable["isBase64Encoded"] = true.into();
    vec![
        ("wrong key", http_api_event(&body, Some(&sign(&body, WRONG_KEY)))),
        ("first byte wrong", wrong_at(0)),
        ("last byte wrong", wrong_at(good.len() - 1)),
        ("another head's key", http_api_event(&body, Some(&sign(&body, OTHERS_KEY)))),
        ("malformed header", http_api_event(&body, Some(&"z".repeat(64)))),
        ("no header", http_api_event(&body, None)),
        ("undecodable body", undecodable),
    ]
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Welch's t of two samples, without what is slower than most of both. Beyond ±4.5 they differ.
fn welch(one: &[f64], other: &[f64]) -> f64 {
    let mut pooled = [one, other].concat();
    pooled.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let limit = pooled[((pooled.len() - 1) as f64 * COMPARED) as usize];
    let moments = |sample: &[f64]| {
        let kept: Vec<_> = sample.iter().copied().filter(|time| *time <= limit).collect();
        #[expect(clippy::cast_precision_loss, reason = "a number of samples")]
        let n = kept.len().max(2) as f64;
        let mean = kept.iter().sum::<f64>() / n;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    };
    let ((mean, error), (other_mean, other_error)) = (moments(one), moments(other));
    (mean - other_mean) / (error + other_error).sqrt().max(f64::MIN_POSITIVE)
}

#[test]
fn welch_tells_samples_apart_that_differ_and_no_others() {
    let mut random = Rng::with_seed(1);
    let mut sample = |shift: f64| -> Vec<f64> { (0..1_000).map(|_| shift + random.f64()).collect() };
    let (one, same, slower) = (sample(10.0), sample(10.0), sample(10.2));
    assert!(welch(&one, &same).abs() < 4.5);
    assert!(welch(&slower, &one) > 4.5 && welch(&one, &slower) < -4.5);
}
