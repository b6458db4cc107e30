//! What a measured process prints: read as it comes, as Lambda does, and its end kept for the message of a failure.

use std::{
    collections::VecDeque,
    io::{PipeReader, Read},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

/// As much of the end as is kept.
const KEPT_BYTES: usize = 4096;

/// A process's standard output and standard error, being read.
#[derive(Debug)]
pub struct Output {
    end: Arc<Mutex<VecDeque<u8>>>,
    reader: JoinHandle<()>,
}

impl Output {
    /// Reads until all who can write have closed it.
    #[must_use]
    pub fn read(mut pipe: PipeReader) -> Self {
        let end = Arc::new(Mutex::new(VecDeque::with_capacity(2 * KEPT_BYTES)));
        let kept = Arc::clone(&end);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(buffer.iter().take(count));
                let surplus = kept.len().saturating_sub(KEPT_BYTES);
                kept.drain(..surplus);
            }
        });
        Self { end, reader }
    }

    /// The last it said, when it is over.
    #[must_use]
    pub fn end(self) -> String {
        // A reader that panicked has nothing more to say than it kept.
        let _ = self.reader.join();
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&end.iter().copied().collect::<Vec<_>>()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_end_is_kept_and_no_more() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let output = Output::read(reader);
        writer.write_all(&b"a".repeat(100_000)).unwrap();
        writer.write_all(b"the end").unwrap();
        drop(writer);
        let end = output.end();
        assert_eq!(end.len(), KEPT_BYTES);
        assert!(end.ends_with("athe end"));
    }
}
