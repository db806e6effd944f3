pub mod terminal {
    pub fn render(_: &crate::lab::results::Results, _: &std::path::Path) -> String {
        String::new()
    }
}
pub fn write(_: &crate::lab::results::Results, _: &std::path::Path) -> anyhow::Result<()> {
    Ok(())
}
