//! QR codes: as SVG without scripts or styles, and as text for a terminal.

use qrcode::{
    EcLevel, QrCode,
    render::{svg, unicode},
};

/// Up to this many bytes a code has room to bear some dirt; longer ones would become too fine.
const ROBUST_BYTES: usize = 180;

fn code(text: &str) -> Option<QrCode> {
    let level = if text.len() <= ROBUST_BYTES { EcLevel::M } else { EcLevel::L };
    QrCode::with_error_correction_level(text, level).ok()
}

/// An `svg` element, dark on light in every theme, since readers want it so. `None`: too long.
pub fn svg(text: &str) -> Option<String> {
    let code = code(text)?;
    let drawn = code
        .render::<svg::Color<'_>>()
        .min_dimensions(200, 200)
        .dark_color(svg::Color("#000000"))
        .light_color(svg::Color("#ffffff"))
        .build();
    let start = drawn.find("<svg")?;
    Some(drawn[start..].to_owned())
}

/// Half blocks for a dark terminal. `None`: too long.
pub fn terminal(text: &str) -> Option<String> {
    let code = code(text)?;
    Some(
        code.render::<unicode::Dense1x2>()
            .dark_color(unicode::Dense1x2::Light)
            .light_color(unicode::Dense1x2::Dark)
            .build(),
    )
}
