#!/bin/sh
# aider, one shot, against OPENAI_API_BASE: it asks the model for a file and writes it.
set -eu
cd "$TMP"
: >greeting.txt
"$AIDER" --model openai/test-model --edit-format whole --message "Write hello into greeting.txt" \
    --yes-always --no-git --no-check-update --analytics-disable --no-show-model-warnings \
    --no-pretty --no-gitignore --no-show-release-notes greeting.txt >aider.log 2>&1 || {
    cat aider.log
    exit 1
}
cat aider.log
if grep -qiE '429|rate.?limit|retrying' aider.log; then
    echo "the agent saw a limit" >&2
    exit 1
fi
grep -q '^hello from the model$' greeting.txt
