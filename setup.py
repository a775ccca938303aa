"""Editable install: `pip install -e .` makes the house's packages importable from anywhere."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
REQUIREMENTS = [
    line
    for line in (HERE / "requirements.txt").read_text().splitlines()
    if line and not line.startswith(("#", "-"))
]

setup(
    name="imle-lab",
    version="0.1.0",
    description="Training toolkit for image synthesis, conditional IMLE on CAM-Net first",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    install_requires=REQUIREMENTS,
    # Without tests: a package of that name would hide those of every other project.
    packages=find_packages(exclude=["benchmarks", "benchmarks.*", "tests", "tests.*"]),
    package_data={"recipes.report": ["page/*"]},
    py_modules=["imle_lab"],
)
