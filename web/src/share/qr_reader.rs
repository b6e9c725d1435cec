//! Reads QR codes back, as a phone does: the drawing becomes dots, and a reader that knows nothing of the
//! writer finds the code in them.

/// Every drawing of a code in a page, read.
pub fn read_all(html: &str) -> Vec<String> {
    let drawings = html.split("<svg ").skip(1).filter(|it| it.contains("crispEdges"));
    drawings.map(|it| read(it.split("</svg>").next().unwrap_or_default())).collect()
}

/// What the code of a drawing says.
pub fn read(svg: &str) -> String {
    let (size, dots) = dots(svg);
    let light = |x: usize, y: usize| if dots[y * size + x] { 0 } else { 255 };
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(size, size, light);
    let found = image.detect_grids();
    let [code] = found.as_slice() else { panic!("{} codes in {svg}", found.len()) };
    code.decode().unwrap().1
}

/// The drawing's width, and which of its points are dark: it is made of rectangles `M{x} {y}h{w}v{h}H{x}V{y}`.
fn dots(svg: &str) -> (usize, Vec<bool>) {
    let attribute = |name: &str| svg.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap();
    let size: usize = attribute("width").parse().unwrap();
    let mut dots = vec![false; size * size];
    for path in svg.split("<path").skip(1).filter(|it| it.contains("#000000")) {
        let shape = path.split(" d=\"").nth(1).unwrap().split('"').next().unwrap();
        for part in shape.split('M').skip(1) {
            let numbers: Vec<usize> =
                part.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).collect();
            let [x, y, w, h, ..] = numbers[..] else { panic!("{part}") };
            for row in y..y + h {
                dots[row * size + x..row * size + x + w].fill(true);
            }
        }
    }
    (size, dots)
}
