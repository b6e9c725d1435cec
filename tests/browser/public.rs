//! A subscription's page, served over the demonstration's data.

use crate::needs_browser;
use boxmeter_web::backend::Backend;
use boxmeter_web::demo::Demo;
use boxmeter_web::panel::public::{Options, router};
use std::sync::Arc;

#[test]
fn the_page_of_a_subscription() {
    needs_browser!();
    let demo = Arc::new(Demo::new("2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()));
    let (sender, receiver) = std::sync::mpsc::channel();
    // Serves until the test process ends.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let token = demo.credentials("演示-小明").await.unwrap().token;
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send((listener.local_addr().unwrap(), token)).unwrap();
            axum::serve(listener, router(demo, Options::default())).await
        })
    });
    let (address, token) = receiver.recv().unwrap();
    let page = format!("http://{address}/s/{token}");
    let strange = format!("http://{address}/s/nobody");
    crate::browser::run("public.mjs", &[("PAGE_SECRET", &page), ("PAGE_STRANGE", &strange)]);
}
