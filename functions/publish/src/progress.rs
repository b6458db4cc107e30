//! What outlets took of records that come again.
//!
//! The response of a batch can only say where to begin again, so all records behind the first one that was held back are
//! delivered again, published or not. While one session is held back, e.g. for hours because the table is out, consumers
//! would get the events of all others with each retry. An environment therefore remembers its last batch. Another environment
//! does not know of it: this makes duplicates rare, and nothing depends on it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use event_store::stream::ItemKey;

/// How many outlets took each record of the last batch that comes again, by the key of its item.
#[derive(Debug, Default)]
pub struct Progress(Mutex<HashMap<ItemKey, usize>>);

impl Progress {
    /// How many outlets took a record.
    pub fn of(&self, key: &ItemKey) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied().unwrap_or_default()
    }

    /// Forgets the last batch, and remembers this one.
    pub fn replace(&self, taken: impl IntoIterator<Item = (ItemKey, usize)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = taken.into_iter().collect();
    }
}
