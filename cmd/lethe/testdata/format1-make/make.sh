#!/usr/bin/env bash
# How ../format1 was made, once, by the version that froze the format. It is not made again: every later version must
# restore the repository that lies there. It stays as the record of what was done, and to make the like of a format 2.
#
#   make.sh LETHE FOLDER      with psql, createdb and go on the PATH, and PG* naming a server to make databases on
#
# FOLDER then holds the repository, the keys of everybody (nothing of value is encrypted to them), ids, the names of the
# snapshots in order, list.txt, and answers.txt: what each snapshot answers to ../format1/answers.sql once it is restored.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lethe=$(realpath "$1")
mkdir "$2"
cd "$2"
db=lethe_format1_$$
createdb -T template0 -E UTF8 --locale=C.UTF-8 "$db"
trap 'dropdb --if-exists "$db"' EXIT
psql -Xq -v ON_ERROR_STOP=1 -1 -d "$db" -f "$here/schema.sql"

age-keygen -o key.txt 2>/dev/null
"$lethe" -q keygen signer --output signer.key > signer.pub
cp "$here/rules.yml" .
cat > lethe.yml <<YML
database: {url: "postgres:///$db"}
rules: rules.yml
recipients: [$(age-keygen -y key.txt)]
operator_key: operator.key
trusted_signers: [$(cat signer.pub)]
stores: [{url: repository}]
state: state
YML
"$lethe" -q init
"$lethe" -q keygen operator --show operator.key > operator.pub

# Two snapshots that know of nobody; three people ask, one of them closed in the end; a snapshot that leaves them out.
"$lethe" -q backup
psql -Xq -v ON_ERROR_STOP=1 -1 -d "$db" -f "$here/change.sql"
"$lethe" -q backup
"$lethe" -q erasure request user:5 --ref S-1 --received 2026-11-20
"$lethe" -q erasure request user:6 --ref S-2 --received 2026-11-20
"$lethe" -q backup

# The key holder purges and verifies; the second request ends; and another person asks whom no snapshot honours yet.
"$lethe" -q erasure purge -i key.txt --signer signer.key --yes --confirm-rows 119
"$lethe" -q erasure verify -i key.txt --signer signer.key
go -C "$here" run close.go "$PWD/repository" "$PWD/operator.key" 2
"$lethe" -q erasure request user:7 --ref S-3 --received 2026-11-21

# The operator's machine is lost: the key holder takes the repository over, and the new operator goes on.
mkdir new
cd new
"$lethe" -q init --store ../repository --trust "$(cat ../operator.pub)" -i ../key.txt --signer ../signer.key
"$lethe" -q keygen operator --show operator.key > ../operator.pub
mv operator.key ../operator.key
cd ..
rm -rf new state
psql -Xq -v ON_ERROR_STOP=1 -1 -d "$db" -f "$here/later.sql"
"$lethe" -q backup

"$lethe" -q list --json | jq -r '.snapshots[].id' > ids
cp "$here/../format1/answers.sql" .
for id in $(cat ids); do
	"$lethe" -q restore "$id" -i key.txt --to "postgres:///${db}_restored"
	psql -Xq -At -v ON_ERROR_STOP=1 -d "${db}_restored" -f answers.sql
	dropdb "${db}_restored"
done > answers.txt
"$lethe" -q list -i key.txt > list.txt
rm -rf state repository/locks key-holder-card.txt lethe.yml rules.yml
