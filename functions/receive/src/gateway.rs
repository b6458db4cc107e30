//! A gateway's event, reduced to the parts of a delivery before `lambda_http` sees it.
//!
//! `lambda_http` reads the whole event, and panics at a list in `X-Forwarded-Proto`, an odd host, or base64 that is not strict.
//! Anyone can send these without a signature. So this module makes a new event of the method, the path, the signature header,
//! the body and the time of arrival, and drops the rest unread. An event that no gateway sends becomes a request to no path.

use std::{borrow::Cow, fmt::Write as _};

use base64::{
    Engine,
    alphabet::STANDARD as ALPHABET,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use lambda_http::{
    aws_lambda_events::apigw::{ApiGatewayProxyRequest, ApiGatewayV2httpRequest},
    http::{HeaderMap, HeaderName, HeaderValue, Method},
    request::LambdaRequest,
};
use serde_json::value::RawValue;
use unith_events::{
    json::{self, Object},
    signature::SIGNATURE_HEADER,
};

/// The one path there is.
pub const WEBHOOK_PATH: &str = "/webhooks/head-events";
/// The largest body that is accepted. UNITH's events have some 300 bytes; the table takes items of up to 400 KB.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// Our own header on a request whose body could not be decoded. A sender's header of this name is dropped.
pub(crate) const UNDECODABLE_BODY: HeaderName = HeaderName::from_static("undecodable-body");

const EMPTY: (String, bool) = (String::new(), false);
/// The part of an unknown path that is logged.
const MAX_SHOWN_PATH_BYTES: usize = 200;
/// Replaces a value that cannot be a header's. It is not a signature.
const NO_VALUE: HeaderValue = HeaderValue::from_static("?");

/// Base64 of any encoder: padding may be missing, and unused bits are ignored. The signature decides about the bytes.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The request within a gateway's event.
///
/// It has the event's payload version, since the response must have the same. An event of neither version counts as 2.0.
pub fn neutral(event: &RawValue) -> LambdaRequest {
    let frame = Frame::read(event);
    let (method, path) = (frame.method(), frame.path());
    let mut headers = frame.signature_headers();
    // The body of any other request is not decoded.
    let body = if method == Method::POST && path == WEBHOOK_PATH { frame.body() } else { Some(EMPTY) };
    let (body, is_base64_encoded) = body.unwrap_or_else(|| {
        headers.insert(UNDECODABLE_BODY, NO_VALUE);
        EMPTY
    });
    if frame.is_payload_1() {
        let mut request = ApiGatewayProxyRequest::default();
        request.http_method = method;
        request.path = Some(path);
        request.multi_value_headers = headers;
        request.request_context.request_time_epoch = frame.arrival("requestTimeEpoch");
        request.body = Some(body);
        request.is_base64_encoded = is_base64_encoded;
        LambdaRequest::ApiGatewayV1(request)
    } else {
        let mut request = ApiGatewayV2httpRequest::default();
        request.request_context.http.method = method;
        request.raw_path = Some(path);
        request.headers = headers;
        request.request_context.time_epoch = frame.arrival("timeEpoch");
        request.body = Some(body);
        request.is_base64_encoded = is_base64_encoded;
        LambdaRequest::ApiGatewayV2(request)
    }
}

/// The event, and the objects in it that are read.
struct Frame<'e> {
    event: Object<'e>,
    context: Object<'e>,
    http: Object<'e>,
}

impl<'e> Frame<'e> {
    fn read(event: &'e RawValue) -> Self {
        let event = Object::parse(event.get()).unwrap_or_default();
        let context = event.object("requestContext");
        let http = context.object("http");
        Self { event, context, http }
    }

    fn is_payload_1(&self) -> bool {
        match self.event.text("version").as_deref() {
            Some("1.0") => true,
            Some("2.0") => false,
            // Events of REST APIs have no version.
            _ => self.http.text("method").is_none() && self.event.text("httpMethod").is_some(),
        }
    }

    /// An invalid method is as wrong as any other than POST.
    fn method(&self) -> Method {
        let method = if self.is_payload_1() {
            self.event.text("httpMethod").or_else(|| self.context.text("httpMethod"))
        } else {
            self.http.text("method")
        };
        method.and_then(|method| Method::from_bytes(method.as_bytes()).ok()).unwrap_or(Method::OPTIONS)
    }

    /// The webhook's path if any member of the event has it; otherwise the requested path, percent-encoded for URIs and logs.
    fn path(&self) -> String {
        if self.is_for_the_webhook() {
            return WEBHOOK_PATH.to_owned();
        }
        let asked = self.asked_paths().next().unwrap_or_default();
        let mut shown = String::from("/");
        for byte in asked.strip_prefix('/').unwrap_or(&asked).bytes().take(MAX_SHOWN_PATH_BYTES) {
            // After two slashes at the start a URI has a host.
            let stays = byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
            if stays && (byte != b'/' || shown.len() > 1) {
                shown.push(char::from(byte));
            } else {
                // Writing to a `String` cannot fail.
                let _ = write!(shown, "%{byte:02X}");
            }
        }
        shown
    }

    fn is_for_the_webhook(&self) -> bool {
        let is_webhook = |path: &str| path.trim_end_matches('/') == WEBHOOK_PATH;
        let stage = self.context.text("stage").unwrap_or_default();
        let behind_stage = |path: &str| {
            let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(&*stage));
            !stage.is_empty() && rest.is_some_and(is_webhook)
        };
        self.routes().any(|route| is_webhook(path_of_route(&route)))
            || self.asked_paths().any(|path| is_webhook(&path) || behind_stage(&path))
            || self.proxied_paths().any(|path| is_webhook(&format!("/{}", path.trim_start_matches('/'))))
    }

    /// The routes that the gateway matched: `POST /path` (payload 2.0) or `/path` (1.0).
    fn routes(&self) -> impl Iterator<Item = Cow<'e, str>> {
        let context = &self.context;
        let of_event = ["routeKey", "resource"].into_iter().filter_map(|name| self.event.text(name));
        of_event.chain(["routeKey", "resourcePath"].into_iter().filter_map(|name| context.text(name)))
    }

    /// The requested paths, perhaps behind a stage or a base path.
    fn asked_paths(&self) -> impl Iterator<Item = Cow<'e, str>> {
        let of_event = ["rawPath", "path"].into_iter().filter_map(|name| self.event.text(name));
        of_event.chain([self.http.text("path"), self.context.text("path")].into_iter().flatten())
    }

    /// The value of `{proxy+}` or its like: alone, since a base path may precede it, and within the route, since it may be the end
    /// of the webhook's path.
    fn proxied_paths(&self) -> impl Iterator<Item = String> {
        let parameters = self.event.object("pathParameters");
        let proxy = parameters.text("proxy").map(Cow::into_owned);
        let routes: Vec<_> = self.routes().filter(|route| route.contains('{')).collect();
        let filled = routes.into_iter().flat_map(move |route| filled(path_of_route(&route), &parameters));
        proxy.into_iter().chain(filled)
    }

    /// When the gateway received the request, in milliseconds since 1970; 0 if the event does not have it.
    fn arrival<T: TryFrom<i64> + Default>(&self, name: &str) -> T {
        let epoch = self.context.get(name).and_then(|value| value.get().parse::<i64>().ok());
        epoch.and_then(|epoch| T::try_from(epoch).ok()).unwrap_or_default()
    }

    /// All signature headers, in any case. Payload 1.0 has repeated headers in a list; the single value beside the list is one of
    /// them.
    fn signature_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for list in ["multiValueHeaders", "headers"] {
            for (name, value) in self.event.object(list).members() {
                if !name.0.eq_ignore_ascii_case(SIGNATURE_HEADER.as_bytes()) {
                    continue;
                }
                let values: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_else(|_| vec![value]);
                for value in values.into_iter().filter(|value| value.get() != "null") {
                    let value = json::text(value).and_then(|text| HeaderValue::from_str(&text).ok());
                    headers.append(SIGNATURE_HEADER, value.unwrap_or(NO_VALUE));
                }
            }
            if !headers.is_empty() {
                break;
            }
        }
        headers
    }

    /// The body, and whether it is in base64, which only binary bodies are. `None` if it cannot be decoded.
    fn body(&self) -> Option<(String, bool)> {
        let body = match self.event.get("body") {
            None => return Some(EMPTY),
            Some(body) if body.get() == "null" => return Some(EMPTY),
            Some(body) => json::text(body)?.into_owned(),
        };
        let flag = self.event.get("isBase64Encoded").map_or("false", RawValue::get);
        let is_text = !flag.trim_matches('"').eq_ignore_ascii_case("true");
        // A body that is too large in base64 is too large decoded.
        if is_text || body.len() > 2 * MAX_BODY_BYTES {
            return Some((body, false));
        }
        let is_read = |byte: &u8| !byte.is_ascii_whitespace();
        let standard = |byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        };
        let digits: Vec<u8> = body.into_bytes().into_iter().filter(is_read).map(standard).collect();
        let bytes = LENIENT.decode(digits).ok()?;
        Some(
            String::from_utf8(bytes)
                .map_or_else(|error| (STANDARD.encode(error.as_bytes()), true), |text| (text, false)),
        )
    }
}

fn path_of_route(route: &str) -> &str {
    route.split_once(' ').map_or(route, |(_, path)| path)
}

/// A route with its parameters filled in, and the value of its greedy parameter. Empty if another parameter's value has several
/// parts.
fn filled(route: &str, parameters: &Object<'_>) -> Vec<String> {
    let mut path = String::new();
    let mut greedy = None;
    for part in route.split('/').filter(|part| !part.is_empty()) {
        let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
        let value = name.map(|name| parameters.text(name.trim_end_matches('+')).unwrap_or_default());
        if name.is_some_and(|name| name.ends_with('+')) {
            greedy = value.as_deref().map(str::to_owned);
        } else if value.as_deref().is_some_and(|value| value.contains('/')) {
            return Vec::new();
        }
        path.push('/');
        path.push_str(value.as_deref().unwrap_or(part));
    }
    greedy.into_iter().chain([path]).collect()
}
