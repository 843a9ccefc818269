#!/usr/bin/env bash
# Installs mmjax, trains a small generator of drawn scenes in two stages, evaluates and exports it, loads the model
# again and generates: about eleven minutes on two cores after the downloads. Started again, it resumes where it stopped.
#
#   ./launch/quickstart.sh                                          the real thing
#   ./launch/quickstart.sh --config=configs/quickstart.py:tiny      the same way in seconds, to see that it works
#   ./launch/quickstart.sh --config=configs/quickstart_video.py     clips instead of images
#   ./launch/quickstart.sh --config.train.steps=500                 other arguments go to `mmjax train`
#
# QUICKSTART_ARGS may hold arguments too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/environment.sh

# shellcheck disable=SC2086  # several arguments in one variable
set -- ${QUICKSTART_ARGS:-} "$@"
mistake() { echo "quickstart.sh: $*" >&2; exit 2; }
config=configs/quickstart.py
workdir=
for argument in "$@"; do
    shift
    case $argument in
        --config= | --workdir=) mistake "$argument is empty; needs a path" ;;
        --config=*) config=${argument#*=} ;;
        --workdir=*) workdir=${argument#*=} ;;
        --config.*=*) set -- "$@" "$argument" ;;
        *) mistake "$argument: not understood; give --config=FILE[:arguments], --workdir=DIR or --config.FIELD=VALUE" ;;
    esac
done
case $config in *.py:*) file=${config%%.py:*}.py ;; *) file=$config ;; esac
[ -f "${file/#\~\//${HOME:-}/}" ] || mistake "--config: no file $file in $PWD; give one such as configs/quickstart.py"
# Each variant of the config has a folder of its own: quickstart.py:tiny goes to runs/quickstart-tiny.
name=$(basename "$file" .py)
case $config in *.py:*) name=$name-$(printf %s "${config#"$file":}" | tr -c 'A-Za-z0-9=' '-') ;; esac
workdir=${workdir:-runs/$name}
model=$workdir/model
image=$workdir/generated.png
prompts=("a red circle left of a blue square" "a green triangle above a yellow circle"
    "a blue ring below a red triangle" "a cyan circle right of a purple square")
case $name in *video*)
    image=$workdir/generated.gif
    prompts=("a red circle moving left" "a green triangle moving up" "a blue ring moving down" "a cyan square moving right")
    ;;
esac

make_environment ""
stage "training $config in $workdir"
mmjax train --config="$config" --workdir="$workdir" "$@"
stage "evaluating"
mmjax evaluate --workdir="$workdir"
stage "exporting"
mmjax export --workdir="$workdir" --out="$model"
stage "generating from $model"
mmjax generate --model="$model" --out="$image" --prompt "${prompts[@]}"

echo
echo "report:   $workdir/report.html"
echo "images: $image"
echo "model:    $model"
