//! The panel over made-up data, as the built program serves it.

use crate::browser::{Panel, run};
use crate::needs_browser;
use boxmeter_web::demo;

#[test]
fn every_page_in_every_language_theme_and_size() {
    needs_browser!();
    let panel = Panel::demo();
    run("panel.mjs", &[("PANEL_URL", panel.url()), ("PANEL_PASSWORD", demo::PASSWORD)]);
}

#[test]
fn what_people_do_with_pointer_keys_and_without_scripts() {
    needs_browser!();
    let panel = Panel::demo();
    run("behaviour.mjs", &[("PANEL_URL", panel.url()), ("PANEL_PASSWORD", demo::PASSWORD)]);
}
