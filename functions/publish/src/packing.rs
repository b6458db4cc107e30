//! Packing entries into requests, by count and by bytes.

/// The most entries of a request, to EventBridge and to SQS.
pub const MAX_ENTRIES: usize = 10;
/// The bytes that all entries of a request together stay below. EventBridge's limit is 1 MB, that of SQS a little more.
pub const MAX_BYTES: usize = 1_000_000;

/// An entry to be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parcel {
    /// Its position among all entries.
    pub index: usize,
    pub bytes: usize,
    /// Whether it gets a request of its own.
    pub alone: bool,
}

/// The requests, each as the positions of its entries, in the order in which the entries came.
pub fn pack(parcels: impl IntoIterator<Item = Parcel>) -> Vec<Vec<usize>> {
    let mut requests = Vec::new();
    let (mut current, mut bytes) = (Vec::new(), 0);
    for parcel in parcels {
        if parcel.alone {
            requests.push(vec![parcel.index]);
            continue;
        }
        if current.len() == MAX_ENTRIES || (!current.is_empty() && bytes + parcel.bytes >= MAX_BYTES) {
            requests.push(std::mem::take(&mut current));
            bytes = 0;
        }
        current.push(parcel.index);
        bytes += parcel.bytes;
    }
    if !current.is_empty() {
        requests.push(current);
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_is_in_one_request_within_the_limits(
            entries in proptest::collection::vec((1..MAX_BYTES, proptest::bool::weighted(0.1)), 0..60)
        ) {
            let parcels = entries.iter().enumerate();
            let parcels = parcels.map(|(index, (bytes, alone))| Parcel { index, bytes: *bytes, alone: *alone });
            let requests = pack(parcels);
            let mut packed: Vec<_> = requests.iter().flatten().copied().collect();
            packed.sort_unstable();
            prop_assert_eq!(packed, (0..entries.len()).collect::<Vec<_>>());
            for request in &requests {
                let bytes: usize = request.iter().map(|index| entries[*index].0).sum();
                prop_assert!((1..=MAX_ENTRIES).contains(&request.len()) && bytes < MAX_BYTES, "{request:?}: {bytes}");
                prop_assert!(request.len() == 1 || !request.iter().any(|index| entries[*index].1), "{request:?}");
            }
        }

        #[test]
        fn small_entries_fill_requests(count in 0_usize..60) {
            let parcels = (0..count).map(|index| Parcel { index, bytes: 1_000, alone: false });
            prop_assert_eq!(pack(parcels).len(), count.div_ceil(MAX_ENTRIES));
        }
    }
}
