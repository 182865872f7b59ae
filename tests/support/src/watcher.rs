//! A client for monitoring: plain requests to processes and Prometheus.

/// The answer to a plain request: its status and its body.
pub fn get(url: &str, query: &[(&str, &str)]) -> anyhow::Result<(u16, String)> {
    platform::identity::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = reqwest::Client::new().get(url).query(query).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    })
}
