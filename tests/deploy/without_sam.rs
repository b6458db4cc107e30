//! The commands of `docs/deploy.md` for a deployment without SAM, run as they are written there.

use sandbox::platform::account::EMAIL;
use sandbox::platform::account::HEAD_ID;
use sandbox::platform::account::SECRET_KEY;
use sandbox::platform::settings::Settings;
use sandbox::platform::simulator::Platform;
use sandbox::server::listen;
use tests::repository::repository;
use unith_events::event_type::EventType;
use unith_events::timestamp::Timestamp;

use crate::{
    HEAD_B,
    documents::block,
    emulator::Emulator,
    is_stored,
    stack::{BUILT, host},
};

#[tokio::test]
async fn the_commands_without_sam_deploy_register_and_receive() {
    let settings = Settings { more_heads: vec![HEAD_B.to_owned()], ..Settings::default() };
    let platform = Platform::serve(listen("UNITH", 0).await.unwrap(), settings).unwrap();
    let emulator = Emulator::start("without-sam").await;
    let script = script(platform.url());
    let output = emulator.run("bash", &["-euc", &script]).await;
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}");

    let webhooks = platform.webhooks();
    assert_eq!(webhooks.len(), 2, "{printed}");
    assert!(platform.events_enabled(HEAD_ID) && platform.events_enabled(HEAD_B));
    let apis = emulator.aws(&["apigatewayv2", "get-apis"]).await;
    let api = apis["Items"][0]["ApiId"].as_str().unwrap();
    let host = host(&webhooks[0].webhook_url);
    assert!(host.starts_with(api), "{host}");

    platform.map_host(host, emulator.api(api));
    let mut sent = platform.emit(HEAD_ID, "without-sam", EventType::StartConversation, Timestamp::now()).remove(0);
    is_stored(&mut sent).await;
    println!("without SAM: deployed, registered and delivered to");
}

/// The commands of the document, with the reader's values filled in.
fn script(unith: &str) -> String {
    let mut script = block("docs/deploy.md", "## Without SAM");
    // `cargo lambda` may have built for another processor since, so its folder is not used.
    let folder = repository("target/deploy/lambda");
    for (function, built) in [("receive", "Receive"), ("provision", "Provision")] {
        std::fs::create_dir_all(folder.join(function)).unwrap();
        let from = repository(BUILT).join(built).join("bootstrap");
        std::fs::copy(&from, folder.join(function).join("bootstrap"))
            .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
    let deploy = format!("cargo lambda deploy --lambda-dir '{}'", folder.display());
    let mut replace = |text: &str, value: &str| {
        assert!(script.contains(text), "docs/deploy.md does not have: {text}");
        script = script.replace(text, value);
    };
    replace(&format!("HEADS={HEAD_ID}"), &format!("HEADS={HEAD_ID},{HEAD_B}"));
    replace("jane@example.com", EMAIL);
    replace(r#""secretKey":"…""#, &format!(r#""secretKey":"{SECRET_KEY}""#));
    replace("https://platform-api.unith.ai", unith);
    // `sam build` has built them for this machine.
    replace("cargo lambda build --release --target aarch64-unknown-linux-musl\n", "");
    replace("cargo lambda deploy", &deploy);
    // The name in the URL does not resolve here.
    replace(r#"cargo lambda invoke --remote provision --data-ascii '{"action":"self-test"}'"#, "");
    script
}
