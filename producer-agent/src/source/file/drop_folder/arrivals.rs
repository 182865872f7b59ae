//! Files that came into the folder by a rename: a program renames a file when it is whole.
//!
//! Owns the system's notices of renames (inotify, Linux). Where there are none, or one was lost, a file is whole when
//! it has been still for long.

use std::future::pending;
use std::path::Path;

#[derive(Debug)]
pub(super) struct Arrivals {
    #[cfg(target_os = "linux")]
    watch: Option<std::os::fd::OwnedFd>,
}

#[cfg(target_os = "linux")]
impl Arrivals {
    /// Watches from now on.
    pub(super) fn of(dir: &Path) -> Self {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|fd| {
            add_watch(&fd, dir, WatchFlags::MOVED_TO)?;
            Ok(fd)
        });
        if let Err(error) = &watch {
            tracing::info!(%error, "renames into the drop folder cannot be seen; files are taken when they stand still");
        }
        Self { watch: watch.ok() }
    }

    /// The names that renames gave since the last call.
    pub(super) fn renamed(&self) -> Vec<String> {
        let Some(watch) = &self.watch else { return Vec::new() };
        let mut names = Vec::new();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = rustix::fs::inotify::Reader::new(watch, &mut buffer);
        // Reading fails when no event is left.
        while let Ok(event) = reader.next() {
            names.extend(event.file_name().and_then(|name| name.to_str().ok()).map(ToOwned::to_owned));
        }
        names
    }

    /// The notices, for a task that waits for one.
    #[allow(
        deprecated,
        reason = "its successor is unsafe, for types whose descriptor may change; an owned one cannot"
    )]
    pub(super) fn notices(&self) -> Notices {
        use tokio::io::{Interest, unix::AsyncFd};
        let watch = self.watch.as_ref().and_then(|watch| watch.try_clone().ok());
        Notices(watch.and_then(|watch| AsyncFd::with_interest(watch, Interest::READABLE).ok()))
    }
}

/// The system's notices.
#[cfg(target_os = "linux")]
pub struct Notices(Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>);

#[cfg(target_os = "linux")]
impl Notices {
    /// Returns when a file came by a rename; never where the system does not tell.
    pub async fn next(&self) {
        match &self.0 {
            Some(watch) => match watch.readable().await {
                // The folder reads what there is; the next notice makes it readable again.
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => pending().await,
            },
            None => pending().await,
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Arrivals {
    pub(super) fn of(_: &Path) -> Self {
        Self {}
    }

    pub(super) fn renamed(&self) -> Vec<String> {
        Vec::new()
    }

    pub(super) fn notices(&self) -> Notices {
        Notices
    }
}

#[cfg(not(target_os = "linux"))]
pub struct Notices;

#[cfg(not(target_os = "linux"))]
impl Notices {
    pub async fn next(&self) {
        pending().await
    }
}
