//! Files on disks: nobody but their owner may read rows and keys.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::daily_site;

/// Everything below a folder that users other than its owner could read.
fn open_to_others(dir: &Path, found: &mut Vec<String>) {
    let mode = std::fs::symlink_metadata(dir).unwrap().permissions().mode();
    if mode & 0o077 != 0 {
        found.push(format!("{} {:o}", dir.display(), mode & 0o777));
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => open_to_others(&entry.path(), found),
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 && metadata.is_file() => {
                found.push(format!("{} {:o}", entry.path().display(), metadata.permissions().mode() & 0o777));
            }
            _ => {}
        }
    }
}

#[test]
fn registers_and_replicas_lie_closed() {
    let dir = tempfile::tempdir().unwrap();
    let site = daily_site::site(dir.path());
    // An older version left them open.
    for folder in ["log", "producer", "consumer"] {
        std::fs::create_dir(site.path(folder)).unwrap();
        std::fs::write(site.path(folder).join("left"), "row").unwrap();
        std::fs::set_permissions(site.path(folder), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(site.path(folder).join("left"), std::fs::Permissions::from_mode(0o644))
            .unwrap();
    }
    let (site, _running) = daily_site::settled(site);
    let mut found = Vec::new();
    for folder in ["log", "producer", "consumer", "drop/taken"] {
        open_to_others(&site.path(folder), &mut found);
    }
    // Dropped files keep their own rights; their folder is closed.
    found.retain(|path| !path.contains("/drop/taken/"));
    assert!(found.is_empty(), "{found:#?}");
    assert!(site.log("consumer").contains("dit has removed their rights"), "{}", site.log("consumer"));
}

#[test]
fn a_key_that_others_can_read_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let site = daily_site::site(dir.path());
    let keys: Vec<_> =
        std::fs::read_dir(site.path("pki")).unwrap().flatten().map(|entry| entry.path()).collect();
    let keys = keys.iter().filter(|path| path.to_string_lossy().ends_with("-key.pem"));
    keys.for_each(|key| std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o644)).unwrap());
    std::fs::set_permissions(site.path("pki"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = site.start("router", daily_site::arguments("router")).map(drop).unwrap_err().to_string();
    assert!(refused.contains("can be read by others") && refused.contains("chmod 600"), "{refused}");
}
