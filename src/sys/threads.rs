//! Threads with names.

use std::io;
pub use std::thread::JoinHandle;

/// Starts a thread. `name` shows in `/proc` and panics; the kernel keeps its first 15 bytes.
///
/// # Panics
/// Where the system has no thread to give. For what must go on without it: [`try_spawn`].
pub fn spawn<T, F>(name: &str, run: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match try_spawn(name, run) {
        Ok(handle) => handle,
        Err(error) => panic!("no thread for '{name}': {error}"),
    }
}

/// Starts a thread, or says why none can be had.
///
/// # Errors
/// The system's limits on threads or memory.
pub fn try_spawn<T, F>(name: &str, run: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::Builder::new().name(name.replace('\0', "")).spawn(run)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_has_its_name_and_returns_its_value() {
        let handle =
            super::spawn("strong-test", || std::thread::current().name().map(str::to_owned));
        assert_eq!(handle.join().unwrap().as_deref(), Some("strong-test"));
    }
}
