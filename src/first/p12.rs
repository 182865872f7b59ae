//! A certificate with its key and its authorities in one file (`.p12`, `.pfx`), as many authorities hand them out.
//!
//! Owns the unpacking into the three PEM files that agents read. It writes over no file that has other contents.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use p12_keystore::{KeyStore, KeyStoreEntry, PrivateKeyChain};
use pem::Pem;
use platform::closed;

/// Whether a file's name ends as a packed certificate's.
pub(super) fn is_p12(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("p12") || ending.eq_ignore_ascii_case("pfx"))
}

/// Unpacks a file next to itself: `<stem>.pem`, `<stem>-key.pem`, and `ca.pem` where it holds the authority; the path
/// of the first.
pub(super) fn unpack(file: &Path, password_file: Option<&Path>) -> anyhow::Result<PathBuf> {
    let named = || file.display().to_string();
    let password = match password_file {
        None => String::new(),
        Some(path) => closed::password(path)?,
    };
    let bytes = std::fs::read(file).with_context(named)?;
    let store = KeyStore::from_pkcs12(&bytes, &password).map_err(|error| {
        let hint =
            if password_file.is_none() { "; where it has a password, say --password-file" } else { "" };
        anyhow::anyhow!("{}: it cannot be opened: {error}{hint}", file.display())
    })?;
    let chain = only_key(&store).with_context(named)?;
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let certificate = |der: &[u8]| pem::encode(&Pem::new("CERTIFICATE", der));
    // An authority that is its own issuer is trusted, not presented.
    let (roots, presented): (Vec<_>, Vec<_>) =
        chain.chain().iter().partition(|certificate| certificate.subject() == certificate.issuer());
    let join = |list: &[&p12_keystore::Certificate]| {
        list.iter().map(|one| certificate(one.as_der())).collect::<String>()
    };
    let path = folder.join(format!("{stem}.pem"));
    let key_path = folder.join(format!("{stem}-key.pem"));
    let key = pem::encode(&Pem::new("PRIVATE KEY", chain.key()));
    check(&key_path, &key)?;
    write(&path, &join(&presented))?;
    write(&key_path, &key)?;
    let authorities = folder.join("ca.pem");
    match (roots.is_empty(), authorities.exists()) {
        (false, false) => write(&authorities, &join(&roots))?,
        (true, false) => platform::say!(
            "{}: the authority is not in it; put its certificate at {}",
            file.display(),
            authorities.display()
        ),
        (_, true) => {}
    }
    platform::say!("{}: unpacked to {} and {stem}-key.pem", file.display(), path.display());
    Ok(path)
}

/// The only key of a store, with its certificates.
fn only_key(store: &KeyStore) -> anyhow::Result<&PrivateKeyChain> {
    let keys: Vec<&PrivateKeyChain> = store
        .entries()
        .filter_map(|(_, entry)| match entry {
            KeyStoreEntry::PrivateKeyChain(chain) => Some(chain),
            _ => None,
        })
        .collect();
    match keys.as_slice() {
        [only] if !only.chain().is_empty() => Ok(only),
        [_] => bail!("its key has no certificate"),
        [] => bail!("it holds no private key"),
        several => bail!("it holds {} private keys; it must hold one", several.len()),
    }
}

/// Whether a file is absent, or has this text.
fn check(path: &Path, text: &str) -> anyhow::Result<()> {
    match std::fs::read(path) {
        Ok(there) if there == text.as_bytes() => Ok(()),
        Ok(_) => {
            bail!("{}: this file is already there with other contents; move it away first", path.display())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Writes a file that only its owner can read; the same text again is no change.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    check(path, text)?;
    closed::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use platform::identity::{Identity, IdentityFiles, Peer};
    use platform::pki::{Authority, Subject};

    use super::*;

    fn der(text: &str) -> Vec<u8> {
        pem::parse(text).unwrap().into_contents()
    }

    #[test]
    fn one_file_becomes_the_three_that_an_agent_reads() {
        platform::identity::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("gov.test").unwrap();
        let issued = authority.issue(&Subject::Agent("4000/main".parse().unwrap())).unwrap();
        let of = |text: &str| p12_keystore::Certificate::from_der(&der(text)).unwrap();
        let chain = [of(&issued.certificate_pem), of(authority.certificate_pem())];
        let mut store = KeyStore::new();
        let key = PrivateKeyChain::new(der(&issued.key_pem), [1], chain);
        store.add_entry("agent", KeyStoreEntry::PrivateKeyChain(key));
        let file = dir.path().join("agent.P12");
        std::fs::write(&file, store.writer("parole ā").write().unwrap()).unwrap();
        assert!(is_p12(&file) && !is_p12(&dir.path().join("agent.pem")));
        let refused = unpack(&file, None).unwrap_err().to_string();
        assert!(refused.contains("--password-file"), "{refused}");
        let password = dir.path().join("password");
        closed::write(&password, "parole ā\n").unwrap();
        let certificate = unpack(&file, Some(&password)).unwrap();
        let identity = Identity::load(&IdentityFiles::beside(&certificate)).unwrap();
        assert!(matches!(identity.own_name("gov.test"), Ok(Peer::Agent(_))));
        assert!(identity.server_config().is_ok(), "certificate and key belong together");
        unpack(&file, Some(&password)).unwrap();
        std::fs::write(dir.path().join("agent-key.pem"), "another").unwrap();
        let refused = unpack(&file, Some(&password)).unwrap_err().to_string();
        assert!(refused.contains("already there with other contents"), "{refused}");
    }
}
