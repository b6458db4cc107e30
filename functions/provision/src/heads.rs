//! The heads that a run is about.

use unith_events::ids::HeadId;

use crate::{declared::Heads, reconciler::Reconciler, ring::RingError, unith::UnithError};

/// The account's heads could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    #[error(transparent)]
    Unith(#[from] UnithError),
    #[error("UNITH lists no head for this account, and `*` stands for all of them; is it the right account?")]
    NoneListed,
}

impl Reconciler {
    /// The declared heads; for `*`, those that the account has now.
    ///
    /// # Errors
    /// An account without heads, or one whose heads cannot be looked up.
    pub async fn heads_of(&self, heads: &Heads) -> Result<Vec<HeadId>, HeadsError> {
        match heads {
            Heads::Named(ids) => Ok(ids.clone()),
            Heads::All => {
                let heads = self.unith.heads().await?;
                if heads.is_empty() { Err(HeadsError::NoneListed) } else { Ok(heads) }
            }
        }
    }

    /// The heads of this owner's entries that the account no longer has. None, if the account cannot be read.
    pub async fn gone_heads(&self, listed: &[HeadId]) -> Vec<HeadId> {
        let mut gone = self.owned_heads().await.unwrap_or_default();
        gone.retain(|head| !listed.contains(head));
        if gone.is_empty() || self.unith.account().await.is_err() { Vec::new() } else { gone }
    }

    /// Adds the heads of this owner's entries.
    ///
    /// # Errors
    /// A ring that cannot be read.
    pub async fn with_owned(&self, mut heads: Vec<HeadId>) -> Result<Vec<HeadId>, RingError> {
        for owned in self.owned_heads().await? {
            if !heads.contains(&owned) {
                heads.push(owned);
            }
        }
        Ok(heads)
    }

    /// The heads of the ring's entries that this run's owner owns. A ring that does not exist has none.
    async fn owned_heads(&self) -> Result<Vec<HeadId>, RingError> {
        let Some(owner) = &self.requester.owner else { return Ok(Vec::new()) };
        match self.ring.read().await {
            Err(error) if error.is_absence() => Ok(Vec::new()),
            ring => Ok(ring?.heads_of(owner)),
        }
    }
}
