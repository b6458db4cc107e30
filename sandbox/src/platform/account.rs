//! The UNITH account of the sandbox: its credentials, its organisation and its first head.

pub const EMAIL: &str = "sandbox@example.com";
pub const SECRET_KEY: &str = "sandbox-secret-key";
/// The head of UNITH's guide. The platform has it from the start.
pub const HEAD_ID: &str = "8eab5b23-024a-45cb-a0e1-9d3ffd6c9610";
/// The public id of [`HEAD_ID`].
pub const PUBLIC_HEAD_ID: &str = "jane-15326";
pub const PUBLIC_ORG_ID: &str = "acme";
/// The shared key of UNITH's guide.
///
/// The first webhook of every platform gets it, so that the signed fixtures are valid in every sandbox.
pub const FIRST_SHARED_KEY: &str = "cbaab87d1cce6d79baad8e9e2607feb3";

pub(super) const ORG_ID: &str = "3f7627db-6f87-4510-85a8-993518add9c7";
pub(super) const ORG_NAME: &str = "Acme";
pub(super) const USER_ID: &str = "5d0f8a52-7a0e-4c53-9a44-3a1d2b6f0c11";
/// The number in [`PUBLIC_HEAD_ID`]. The public ids of later heads count on from it.
pub(super) const FIRST_PUBLIC_NUMBER: usize = 15_326;
