//! The output of a measured process: read at once, as Lambda does, with its end kept for error messages.

use std::{
    collections::VecDeque,
    io::{PipeReader, Read},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

/// The size of the end that is kept.
const KEPT_BYTES: usize = 4096;

/// The output of a running process.
#[derive(Debug)]
pub struct Output {
    end: Arc<Mutex<VecDeque<u8>>>,
    reader: JoinHandle<()>,
}

impl Output {
    /// Reads in a thread, until all writers have closed the pipe.
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

    /// Waits for the end of the output, and returns the last part of it.
    pub fn end(self) -> String {
        // After a panic of the reader, the part that it kept is still there.
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
    fn only_the_end_of_the_output_is_kept() {
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
