//! How many of something each of many may have at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what each holder has. Cheap to clone; clones count together.
#[derive(Debug)]
pub(crate) struct Places<K>(Arc<Mutex<BTreeMap<K, usize>>>);

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord + Clone> Places<K> {
    /// One more for `holder`; `None` if it has `most` already.
    pub(crate) fn enter(&self, holder: K, most: usize) -> Option<Place<K>> {
        let mut taken = self.lock();
        let count = taken.entry(holder.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { all: self.clone(), holder })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, usize>> {
        // Nothing that a panic could leave half done is done under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Ord + Clone> {
    all: Places<K>,
    holder: K,
}

impl<K: Ord + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.all.lock();
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_their_own_places_and_gets_them_back() {
        let places = Places::default();
        let (one, two) = (places.enter("a", 2), places.enter("a", 2));
        assert!(one.is_some() && two.is_some() && places.enter("a", 2).is_none());
        let other = places.enter("b", 2);
        assert!(other.is_some());
        drop(one);
        assert!(places.enter("a", 2).is_some());
        drop((two, other));
        assert!(places.lock().is_empty(), "who holds nothing is forgotten");
    }
}
