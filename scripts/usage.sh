# Sourced first by the other scripts, with their arguments: -h or --help prints the comment at the
# top of the script and ends it, before anything is installed or begun.
for argument in "$@"; do
  case $argument in
    -h | --help)
      sed -n '2,/^[^#]/{/^#SBATCH/d;s/^# \{0,1\}//p;}' "$0"
      exit 0
      ;;
  esac
done
