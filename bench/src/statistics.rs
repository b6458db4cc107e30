//! Medians and percentiles of measured values.

/// The percentile by nearest rank, so always a measured value; 0 for no values.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The median: for an even number of values, the mean of the middle two; 0 for no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    if sorted.len().is_multiple_of(2) && middle > 0 { f64::midpoint(at(middle - 1), at(middle)) } else { at(middle) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_value_of_the_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (percent, value) in [(50, 50.0), (99, 99.0), (100, 100.0), (1, 1.0), (0, 1.0)] {
            assert!((percentile(&hundred, percent) - value).abs() < f64::EPSILON, "{percent}");
        }
        assert!((percentile(&[3.0, 1.0, 2.0], 50) - 2.0).abs() < f64::EPSILON);
        assert!((percentile(&[7.0], 99) - 7.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 50).abs() < f64::EPSILON);
    }

    #[test]
    fn a_median_is_the_middle_value_or_the_mean_of_two() {
        for (values, middle) in [(vec![], 0.0), (vec![5.0], 5.0), (vec![9.0, 1.0], 5.0), (vec![9.0, 1.0, 2.0], 2.0)] {
            assert!((median(&values) - middle).abs() < f64::EPSILON, "{values:?}");
        }
    }
}
