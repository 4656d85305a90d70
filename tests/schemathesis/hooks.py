"""What Schemathesis cannot know of a box: what is there, and what the run itself stands on."""

import json
import os
import zlib

import schemathesis

# The token of the run, the member whose it is, and the instance of the paths.
KEPT = os.environ["BERTH_KEPT"].split(",")
# An instance, and a token of a member. The member, a team and a workspace are called so.
INSTANCE, TOKEN = os.environ["BERTH_SPARE"].split(",")
SPARE = "spare"

# What would end what is kept: each takes what it is about from its fields.
ENDING = {
    "disable_member",
    "reset_sign_in",
    "recreate",
    "remove",
    "remove_member",
    "revoke_token",
    "rotate_token",
    "set_role",
    "stop",
}
THERE = {
    "instance": INSTANCE,
    "member": SPARE,
    "team": f"default/{SPARE}",
    "type": "memory",
    "workspace": "default",
}


def there(action):
    """The fields of an action that name what is there."""
    fields = dict(THERE)
    if action in {"revoke_token", "rotate_token"}:
        fields["id"] = TOKEN
    elif action != "remove":
        fields["id"] = INSTANCE
    if action in {"disable_member", "enable_member", "invite_member", "join_team", "leave_team", "reset_sign_in"}:
        fields["name"] = SPARE
    if action in {"set_quota", "set_allowlist"}:
        fields["workspace"] = SPARE
    return fields


@schemathesis.hook
def before_call(ctx, case, **kwargs):
    body = case.body
    if not isinstance(body, dict) or "action" not in body:
        return
    action = str(body["action"])
    text = json.dumps(body, default=str, sort_keys=True)
    # Every other one that the document allows is about something; by its text, so that each run is the same.
    if case.meta is not None and case.meta.generation.mode.is_positive and zlib.crc32(text.encode()) % 2:
        body = body | {field: value for field, value in there(action).items() if field in body}
        case.body = body
        text = json.dumps(body, default=str)
        # Nobody guesses a version: with one, none of these would ever be done.
        if case.headers:
            case.headers.pop("If-Match", None)
    if action in ENDING and any(kept in text for kept in KEPT):
        case.body = {"action": action}


@schemathesis.serializer("application/x-tar")
def archive(ctx, value):
    return {"data": value if isinstance(value, bytes) else str(value).encode()}
