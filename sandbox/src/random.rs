//! Random values in the forms that the services use.

/// A version 4 UUID made of random bits.
pub(crate) fn uuid(bits: u128) -> String {
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
}
