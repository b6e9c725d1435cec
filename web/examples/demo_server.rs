//! Serves made-up data on a unix socket: `cargo run -p boxmeter-web --example demo_server -- PATH`.

use std::sync::Arc;

use boxmeter_web::{
    api::{
        routes::{Access, unix_router},
        serve::serve,
    },
    demo::Demo,
};
use jiff::Zoned;
use tokio::net::UnixListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "boxmeter-demo.sock".to_owned());
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    eprintln!("boxmeter --socket {path} top");
    let demo = Arc::new(Demo::new(Zoned::now()));
    let moving = Arc::clone(&demo);
    tokio::spawn(async move {
        let mut second = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            second.tick().await;
            let mut snapshot = moving.snapshot();
            snapshot.at = (&Zoned::now()).into();
            for user in &mut snapshot.users {
                let user = Arc::make_mut(user);
                user.live.download_rate = user.live.download_rate * 7 / 5 % (40 << 20);
                user.total_bytes += user.live.download_rate;
                user.period_bytes += user.live.download_rate;
            }
            moving.publish(snapshot);
        }
    });
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(serve(listener, unix_router(demo), |_| Some(Access::Admin), stop).await?)
}
