#!/bin/sh
# Fills an empty cvmstop for the demo, and prints the API keys that it makes. Run again, it puts
# back what is missing and makes no further keys.
#
# DEMO_HOSTS: the simulated hosts, as name=address, separated by spaces.
# CVMSTOP_SIMULATED_TOKEN: the token that they ask for.
set -eu

has() { # JSON, name
    printf '%s' "$1" | grep -q "\"name\": \"$2\""
}

workspaces=$(cvmstop workspaces list --json)
has "$workspaces" acme || cvmstop workspaces create acme
has "$workspaces" globex || cvmstop workspaces create globex

users=$(cvmstop users list --json)
has "$users" admin || cvmstop users create admin --admin
has "$users" alice || cvmstop users create alice --workspace acme

for host in $DEMO_HOSTS; do
    cvmstop hosts add "${host%%=*}" "${host#*=}" --token-env CVMSTOP_SIMULATED_TOKEN --replace
done
python docker/demo_cvms.py | cvmstop cvms import - --format jsonl

if [ "$(cvmstop keys list --json)" = "[]" ]; then
    admin_key=$(cvmstop keys create --user admin --workspace acme --name demo)
    user_key=$(cvmstop keys create --user alice --workspace acme --name demo)
    echo "admin_key=$admin_key"
    echo "user_key=$user_key"
else
    echo "there are API keys already; they were printed when they were made"
fi
