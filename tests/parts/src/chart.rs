//! Judges of a Helm chart: Helm's own engine, and the schemas of Kubernetes and of the Prometheus operator.
//!
//! Owns fetching them. Needs Python with pip, and Go, whose modules hold the operator's schemas, for the first use.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};

use crate::store;

/// Helm's engine (Helm 4.2) and the schemas of Kubernetes 1.37.
const PACKAGES: [&str; 2] = ["helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0"];
const OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator@v0.85.0";
const CRDS: [&str; 2] =
    ["monitoring.coreos.com_servicemonitors.yaml", "monitoring.coreos.com_prometheusrules.yaml"];

pub struct Judges {
    dir: PathBuf,
}

impl Judges {
    /// Fetches what is missing.
    pub fn ready() -> Result<Self> {
        Ok(Self { dir: store::part("chart-judges-1", fetch)? })
    }

    /// Runs a Python program that uses them; the schemas of custom resources are its last arguments.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", self.dir.join("python")).arg("-B").arg(program).args(arguments);
        let output = python.args(CRDS.map(|name| self.dir.join(name))).output();
        output.context("python3 (Debian: python3)")
    }
}

fn fetch(into: &Path) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "-q", "--only-binary", ":all:", "--target"]).arg(into.join("python"));
    store::run(pip.args(PACKAGES), "Python with pip (Debian: python3-pip)")?;
    let mut go = Command::new("go");
    go.current_dir(into).args(["mod", "download", "-json", OPERATOR]);
    let said = go.output().context("go (Debian: golang-go)")?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    let folder = said.split("\"Dir\": \"").nth(1).and_then(|rest| rest.split('"').next());
    let folder = PathBuf::from(folder.with_context(|| format!("go mod download {OPERATOR}: {said}"))?);
    for name in CRDS {
        let crd = folder.join("example/prometheus-operator-crd").join(name);
        std::fs::copy(&crd, into.join(name)).with_context(|| crd.display().to_string())?;
    }
    Ok(())
}
