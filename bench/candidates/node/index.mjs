// The receiver as a Node.js engineer would write it: AWS SDK v3's DynamoDB client, one conditional put, a JSON log line.

import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { ConditionalCheckFailedException, DynamoDBClient, PutItemCommand } from "@aws-sdk/client-dynamodb";

const client = new DynamoDBClient({});
const table = process.env.TABLE_NAME;
const key = process.env.UNITH_SHARED_KEY;

function isSigned(body, header) {
  const mac = createHmac("sha256", key).update(body).digest();
  const signature = Buffer.from(header ?? "", "hex");
  return signature.length === mac.length && timingSafeEqual(signature, mac);
}

function parse(body) {
  try {
    const event = JSON.parse(body);
    const fields = ["timestamp", "head_id", "session_id", "public_head_id", "public_org_id", "event_type"];
    return fields.every((name) => typeof event?.[name] === "string") ? event : undefined;
  } catch {
    return undefined;
  }
}

async function store(event, body) {
  const item = {
    pk: { S: `SESSION#${event.head_id}#${event.session_id}` },
    sk: { S: `EVENT#${event.timestamp}#${event.event_type}` },
    head_id: { S: event.head_id },
    session_id: { S: event.session_id },
    public_head_id: { S: event.public_head_id },
    public_org_id: { S: event.public_org_id },
    event_type: { S: event.event_type },
    occurred_at: { S: event.timestamp },
    received_at: { S: new Date().toISOString() },
    body: { S: body.toString() },
    body_sha256: { S: createHash("sha256").update(body).digest("hex") },
  };
  try {
    await client.send(
      new PutItemCommand({ TableName: table, Item: item, ConditionExpression: "attribute_not_exists(pk)" }),
    );
    return "stored";
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException) return "duplicate";
    throw error;
  }
}

function answer(outcome, statusCode, body, request, event = {}) {
  const { head_id, session_id, event_type } = event;
  const timestamp = new Date().toISOString();
  const request_id = request.requestContext?.requestId;
  console.log(JSON.stringify({ timestamp, level: "INFO", message: "delivery", outcome, request_id, head_id, session_id, event_type }));
  return { statusCode, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

export async function handler(request) {
  const body = Buffer.from(request.body ?? "", request.isBase64Encoded ? "base64" : "utf8");
  if (!isSigned(body, request.headers["x-signature-256"])) {
    return answer("rejected", 401, { message: "Unauthorized" }, request);
  }
  const event = parse(body);
  if (!event) return answer("quarantined", 400, { message: "Bad Request" }, request);
  const status = await store(event, body);
  return answer(status, 200, { status }, request, event);
}
