# Made from the program's tables; see tests/generated.rs.
_alvus() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} word command=serve options
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in serve | init | check | status | demo | help | version) command=$word ;; esac
    done
    case $command in
    serve) options="--env-file --port --host --help --version" ;;
    init) options="--env-file --port --provider --lan --no-check --force --help --version" ;;
    check) options="--env-file --port --host --json --help --version" ;;
    status) options="--env-file --port --host --json --watch --help --version" ;;
    demo) options="--env-file --port --host --help --version" ;;
    help) options="--env-file --port --help --version" ;;
    version) options="--env-file --port --help --version" ;;
    esac
    case $prev in
    --env-file) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    --port | --host | --provider) COMPREPLY=() ;;
    *) mapfile -t COMPREPLY < <(compgen -W "serve init check status demo help version $options" -- "$cur") ;;
    esac
}
complete -F _alvus alvus
