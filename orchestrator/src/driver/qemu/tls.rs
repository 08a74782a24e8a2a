//! Certificates for encrypted migrations.
//!
//! They are made for a single use: an authority, and one certificate for each end that the authority has
//! signed. The authority's key is discarded immediately. The ends show each other their certificates, and
//! accept no others. The files are in the private directory of each end's node, in a folder that only the
//! node can change. Only QEMU's user can read them, and they vanish with that directory.

use super::{confinement::Confinement, qmp};
use crate::{
    measure::End,
    node::{Node, NodeError, protocol::NODE_FOLDER},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// The identifier of the credentials in QEMU.
pub(super) const CREDENTIALS: &str = "migration";

/// The name in the destination's certificate, which the source checks.
pub(super) const HOST_NAME: &str = "destination";

/// The folder of the files, in [`NODE_FOLDER`].
const FOLDER: &str = "tls";

/// An error that keeps a migration from being encrypted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates could not be made.
    #[error("cannot make certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The files could not be written.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// QEMU did not accept the certificates.
    #[error(transparent)]
    Monitor(#[from] qmp::Error),
}

/// The certificates and keys of both ends.
pub(super) struct Certificates {
    authority: String,
    /// The certificate and the key of the source.
    client: [String; 2],
    /// The certificate and the key of the destination.
    server: [String; 2],
}

impl Certificates {
    /// Makes an authority and the certificates of both ends.
    pub(super) fn new() -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let mut authority = named("testbed")?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);
        let signed = |name: &str, purpose| -> Result<[String; 2], Error> {
            let key = KeyPair::generate()?;
            let mut end = named(name)?;
            // QEMU requires both, although TLS 1.3 has no use for the second.
            end.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
            end.extended_key_usages = vec![purpose];
            Ok([end.signed_by(&key, &issuer)?.pem(), key.serialize_pem()])
        };
        Ok(Self {
            authority: certificate,
            client: signed("source", ExtendedKeyUsagePurpose::ClientAuth)?,
            server: signed(HOST_NAME, ExtendedKeyUsagePurpose::ServerAuth)?,
        })
    }

    /// Gives a QEMU its certificate and its key. `monitor` is the monitor of the QEMU at this end, on this
    /// node.
    pub(super) async fn give_to(
        &self,
        end: End,
        node: &Node,
        monitor: &qmp::Client,
        confinement: Confinement,
    ) -> Result<(), Error> {
        let (endpoint, [certificate, key]) = match end {
            End::Source => ("client", &self.client),
            End::Destination => ("server", &self.server),
        };
        for (name, text) in [
            ("ca-cert.pem".into(), &self.authority),
            (format!("{endpoint}-cert.pem"), certificate),
            (format!("{endpoint}-key.pem"), key),
        ] {
            node.write_file(format!("{FOLDER}/{name}"), text.clone(), confinement.user_number()).await?;
        }
        let credentials = json!({
            "qom-type": "tls-creds-x509", "id": CREDENTIALS, "dir": format!("{NODE_FOLDER}/{FOLDER}"),
            "endpoint": endpoint, "verify-peer": true,
        });
        monitor.call("object-add", credentials).await?;
        Ok(())
    }
}

/// Returns the parameters of a certificate for this name.
fn named(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(vec![name.into()])?;
    parameters.distinguished_name.push(DnType::CommonName, name);
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_new_each_time_and_each_end_has_its_own() {
        let (one, other) = (Certificates::new().unwrap(), Certificates::new().unwrap());
        let all = [&one.authority, &one.client[1], &one.server[1], &other.authority, &other.client[1]];
        for (i, text) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|another| another != text));
        }
        assert!(one.server[0].starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(one.server[1].starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}
