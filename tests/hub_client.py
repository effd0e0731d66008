"""What ``test_hub.py`` runs in a process of its own, whose ``HF_ENDPOINT`` is the hub there."""

import json
import logging
import pickle
import sys
import tempfile
from pathlib import Path

import huggingface_hub

import sktransformers

ASKED = json.loads(sys.argv[1])
REPO, TOKEN, TEXTS = "someone/topics", ASKED["token"], ASKED["texts"]


def proba(clf):
    return clf.predict_proba(TEXTS).tolist()


def message(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (ValueError, ConnectionError) as error:
        each = error
        while each is not None:  # what a traceback shows
            assert "secret" not in f"{each} {each!r}"
            each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        return str(error)
    raise AssertionError(f"{call} raised nothing")


logging.basicConfig(level=logging.DEBUG)  # of the HTTP library too
load = sktransformers.load
clf = load(ASKED["saved"])
kind = type(clf)
said = {}

# An earlier push, of another kind: its files must not stay.
clf.push_to_hub(REPO, token=TOKEN, weights="delta")
commit = clf.push_to_hub(REPO, token=TOKEN, scores={"accuracy": 0.9}, private=True)
said |= {"oid": commit.oid, "url": commit.commit_url}
said["loaded"] = proba(load(REPO, token=TOKEN))
said["from_pretrained"] = proba(kind.from_pretrained(REPO, token=TOKEN, batch_size=3))
assert kind.from_pretrained(REPO, token=TOKEN, batch_size=3).batch_size == 3

clf.push_to_hub(REPO, token=TOKEN, revision="v2", commit_message="second")
said["branch"] = proba(load(REPO, revision="v2", token=TOKEN))
said["commit"] = proba(load(REPO, revision=commit.oid, token=TOKEN))
proposal = clf.push_to_hub(REPO, token=TOKEN, create_pr=True)
said["pr_url"] = proposal.pr_url
said["proposal"] = proba(load(REPO, revision="refs/pr/1", token=TOKEN))

clf.push_to_hub("someone/private", token=TOKEN, private=True)
clf.push_to_hub("public", token=TOKEN)  # of one's own

native = kind.from_pretrained("someone/native", token=TOKEN, device="cpu")
said["native"] = native.classes_.tolist()
said["native_error"] = message(load, "someone/native", token=TOKEN)
said["missing"] = message(load, "someone/nothing", token=TOKEN)
said["revision"] = message(load, REPO, revision="no-such-branch", token=TOKEN)
said["refused"] = message(load, "someone/private", token="hf_wrong-secret")
said["push_refused"] = message(clf.push_to_hub, "someone/other", token="hf_wrong-secret")

# A backbone that only its token opens.
backbone = sktransformers.Backbone("someone/native", token=TOKEN)
tuned = kind(backbone, lr=1e-3, max_epochs=1, device="cpu", random_state=0, verbose=2)
tuned.fit(TEXTS, ["sea", "food"] * (len(TEXTS) // 2))
with tempfile.TemporaryDirectory() as folder:
    tuned.save_pretrained(folder)
    files = [path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()]
    said["saved"] = proba(load(folder)) == proba(tuned)
there = [repr(tuned).encode(), pickle.dumps(tuned), pickle.dumps(tuned.tokenizer_), *files]
said["leaks"] = sum(TOKEN.encode() in content for content in there)
said["backbone_refused"] = message(
    tuned.set_params(backbone__token="hf_wrong-secret").fit, TEXTS, TEXTS
)
tuned.set_params(backbone__token=TOKEN)
said["backbone_lost"] = message(pickle.loads(pickle.dumps(tuned)).fit, TEXTS, TEXTS)

# In the cache of somebody who has pushed nothing.
huggingface_hub.constants.HF_HUB_CACHE = ASKED["cache"]
load(REPO, token=TOKEN)
huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # where nobody answers
said["unreachable"] = proba(load(REPO, token=TOKEN))
huggingface_hub.constants.HF_HUB_OFFLINE = True
said["offline"] = proba(load(REPO))
print(json.dumps(said))
