# Runs a stage, as `sh stages/python.sh -m stages.distill`, by the Python that runs dvc, by one on
# PATH or by that of `make`: whichever has this project's packages, so that none need be activated.
for python in "$(tr '\0' '\n' 2>/dev/null </proc/$PPID/cmdline | head -n 1)" python .venv/bin/python; do
  if "$python" -c 'from importlib.util import find_spec as f; f("dvc").name, f("torch").name' 2>/dev/null; then
    exec "$python" "$@"
  fi
done
echo "error: no Python with this project's packages; run \`make\`, which installs them in .venv, or activate your environment" >&2
exit 1
